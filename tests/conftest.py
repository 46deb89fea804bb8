"""What every test shares: the backend, the seed, the markers, what runs."""

import logging
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import pytest

# Modules that hold asserts of tests and are none themselves.
for module in ("methods.contract", "banks", "helpers", "models"):
    pytest.register_assert_rewrite(f"tests.{module}")

# What `pytest` leaves out unless a file, a test or marks are named.
DEFAULT_MARKS = "not slow and not browser and not real_base"
SCHEDULED = hasattr(os, "sched_getaffinity")
MOST_WORKERS = 4
"""Each takes about 2 GB."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The first example of a property compiles a model, later ones do not: a time
# limit per example would measure that. The same examples on every run; to look
# for others: `pytest --hypothesis-profile=thorough`.
hypothesis.settings.register_profile(
    "keras_lora", deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, max_examples=1000
)
hypothesis.settings.load_profile("keras_lora")


def names_files(config):
    """Whether files or single tests are asked for, and no folder."""
    return bool(config.args) and all(
        Path(str(arg).partition("::")[0]).is_file() for arg in config.args
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """A run of folders takes the cores there are and the quick tests.

    `-n` says how many processes, `-m` which tests; files and tests that are
    named run whole, in one process.
    """
    options = config.option
    if names_files(config):
        return
    if not options.markexpr:
        options.markexpr = DEFAULT_MARKS
    if (
        config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")
        and options.numprocesses is None
        and not options.usepdb
        and options.capture != "no"
    ):
        cores = len(os.sched_getaffinity(0)) if SCHEDULED else os.cpu_count()
        if cores and cores > 1:
            options.numprocesses = min(cores, MOST_WORKERS)
            if options.dist == "no":
                options.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is extra is slow."""
    for item in items:
        if item.get_closest_marker("extra"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh_keras_state():
    """Gives each test the same seed, layer numbering and dtype policy."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


def shared_state():
    """What tests of one process share, and have to leave as it was."""
    environment = dict(os.environ)
    environment.pop("PYTEST_CURRENT_TEST", None)
    return {
        "__main__": sys.modules["__main__"],
        "environment": environment,
        "folder": os.getcwd(),
        "dtype policy": keras.config.dtype_policy(),
        "float type": keras.config.floatx(),
        "data format": keras.config.image_data_format(),
        "epsilon": keras.config.epsilon(),
        "level of the logs": logging.getLogger().level,
    }


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A test that leaves what is shared changed fails."""
    before = shared_state()
    yield
    after = shared_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test left these changed: {changed}"


@pytest.fixture(scope="session")
def elsewhere():
    """Runs functions of `tests.elsewhere` in another process."""
    from tests.elsewhere import new_process

    with new_process() as process:
        yield lambda act, *args: process.submit(act, *args).result()


@pytest.fixture(scope="session")
def without_keras_lora():
    """As `elsewhere`, where keras_lora cannot be imported."""
    from tests.elsewhere import hide_keras_lora, new_process

    with new_process(hide_keras_lora) as process:
        yield lambda act, *args: process.submit(act, *args).result()


@pytest.fixture(scope="session")
def chromium():
    """Path of a Chromium: `CHROMIUM`, or the first one found on `PATH`."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if not found:
        pytest.skip("no Chromium found: install it, or set CHROMIUM")
    return found


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Adapters of every shipped task for a small random base."""
    from tests.app.tiny import adapters_folder

    return adapters_folder(tmp_path_factory.mktemp("adapters"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("real_base"):
        backend = keras.backend.backend()
        if backend != "tensorflow":
            pytest.skip(f"the real base runs on tensorflow, not {backend}")
