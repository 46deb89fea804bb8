"""What every test shares: the backend, the seed and the markers."""

import gc
import os
import shutil

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import pytest

from tests.elsewhere import hide_keras_lora, new_process

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


@pytest.fixture(autouse=True)
def fresh_keras_state():
    """Gives each test the same seed, layer numbering and dtype policy."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def elsewhere():
    """Runs functions of `tests.elsewhere` in another process."""
    with new_process() as process:
        yield lambda act, *args: process.submit(act, *args).result()


@pytest.fixture(scope="session")
def without_keras_lora():
    """As `elsewhere`, where keras_lora cannot be imported."""
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


def set_aside():
    """Takes all objects there are from what is looked through.

    `inject`, `eject` and others look for models among all objects. The imports
    make half a million, and Keras on TensorFlow keeps six thousand of each
    `fit`; most of the tests' time would go there.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    set_aside()


@pytest.fixture(scope="module", autouse=True)
def no_objects_of_files_before():
    """What a file of tests leaves behind is no matter of the next."""
    yield
    set_aside()


def pytest_runtest_setup(item):
    if item.get_closest_marker("real_base"):
        backend = keras.backend.backend()
        if backend != "tensorflow":
            pytest.skip(f"the real base runs on tensorflow, not {backend}")
