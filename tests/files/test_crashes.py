"""A process that dies while it saves or trains loses nothing."""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.files.killed_fit import METHODS, trained

pytestmark = pytest.mark.slow
TENSORFLOW = keras.backend.backend() == "tensorflow"
EVERY = int(os.environ.get("CRASH_EVERY", "9"))
"""1 kills at each step there is; the default keeps the tests short."""


def run(module, *arguments, **environment):
    """Starts a module of the tests in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork")
def test_a_killed_save_leaves_the_old_or_the_new_whole(tmp_path):
    """And a full disk or a closed folder is refused in words."""
    process = run(
        "tests.files.crashing", tmp_path, EVERY, KERAS_BACKEND="numpy"
    )
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    found = json.loads(output.splitlines()[-1])
    print(found)
    for what, least in (("save_adapter", 70), ("bank.save", 500)):
        old, new = found[what]["old"], found[what]["new"]
        assert old and new, found
        assert old + new >= least // EVERY, found
    assert found["refused saves of an adapter"] == 5
    assert found["refused saves of a bank"] == 5


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path):
    runs = {
        method: run("tests.files.killed_fit", tmp_path / method, method, "kill")
        for method in METHODS
    }
    whole = {method: trained(method, None) for method in METHODS}
    for method, process in runs.items():
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors[-3000:]
        resumed = trained(method, tmp_path / method)
        gap = max(
            float(np.abs(a - b).max())
            for a, b in zip(whole[method], resumed, strict=True)
        )
        assert gap == 0.0 if TENSORFLOW else gap <= 1e-6
        again = trained(method, None, epochs=2)
        moved = [
            np.abs(a - b).max()
            for a, b in zip(whole[method], again, strict=True)
        ]
        assert max(moved) > 1e-3
