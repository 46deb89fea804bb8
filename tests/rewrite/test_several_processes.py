"""The scripts of docs/how-to/distributed.md, in processes of their own."""

import importlib.util
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_lora
from tests.test_documentation import ROOT, run_page

pytestmark = pytest.mark.slow
PAGE = "docs/how-to/distributed.md"
SECONDS = 300


@pytest.fixture
def folder(tmp_path):
    run_page(PAGE, tmp_path)
    return tmp_path


def start(folder, backend, *arguments):
    """Starts a script of the page."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs(processes):
    """What processes printed; all have to end well."""
    try:
        found = [
            process.communicate(timeout=SECONDS)[0] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, found, strict=True):
        assert process.returncode == 0, text
    return found


def free_address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def needs(package):
    """Skips a test where a package is missing; it is not imported here."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@needs("jax")
def test_two_processes_train_what_one_does(folder):
    outputs([start(folder, "jax", "train.py", 0, 1, "-", "one.safetensors")])
    address = free_address()
    outputs(
        [
            start(folder, "jax", "train.py", n, 2, address, f"{n}.safetensors")
            for n in range(2)
        ]
    )
    assert not (folder / "1.safetensors").exists()  # written once
    one = load_file(folder / "one.safetensors")
    two = load_file(folder / "0.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert np.abs(value).max() > 1e-2, name  # B started at zero
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)


@needs("ray")
def test_a_sweep_has_one_file_a_trial_and_one_base_a_worker(folder):
    (text,) = outputs(
        [start(folder, "tensorflow", "sweep.py", folder / "results")]
    )
    files = list(folder.glob("results/sweep/*/checkpoint_*/*.safetensors"))
    assert len(files) == 4
    ranks = [
        settings["rank"]
        for file in files
        for settings in keras_lora.inspect_adapter(file).layers.values()
    ]
    assert sorted(ranks) == [2] * 4 + [8] * 4  # two layers a file
    lines = [line for line in text.splitlines() if line.startswith("{'rank'")]
    assert len(lines) == 4
    assert len({line.split()[-1] for line in lines}) == 1, lines
    assert "best: {'rank': 8, 'rate': 0.01}" in text
