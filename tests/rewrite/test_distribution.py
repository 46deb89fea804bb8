"""Training on two devices, each in a process of its own."""

import json
import os
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.slow
BACKEND = keras.backend.backend()
WAYS = {"tensorflow": ["mirrored"], "jax": ["data", "model"]}
SPLIT = {
    # By the rules of tests/rewrite/distributed.py, on a mesh of two.
    "stem/kernel": [6, 4],
    "stem/bias": [4],
    "stem/lora_b": [2, 4],
    "branch/kernel": [4, 4],
    "branch/lora_a": [4, 2],
}


@pytest.mark.extra
@pytest.mark.parametrize("way", WAYS.get(BACKEND, []))
def test_two_devices_train_what_one_does(way, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.rewrite.distributed", way, str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": BACKEND,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == ["bottleneck", "lora"]
    for entry in found.values():
        assert entry["base_same"]
        assert entry["gap"] <= 1e-5
        assert entry["loaded_gap"] <= 1e-6
        assert entry["ejected"] == 8
        for name, parts in entry["parts"].items():
            assert len(parts) == 2 and parts[0] == parts[1], name
            if way == "model" and name in SPLIT:
                assert parts[0] == SPLIT[name], name
    if way == "model":
        # What no rule names is whole on each device.
        assert found["lora"]["parts"]["stem/lora_a"] == [[6, 2]] * 2
        assert found["bottleneck"]["parts"]["norm/up_kernel"] == [[2, 8]] * 2
