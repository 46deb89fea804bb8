"""Models that were compiled before keras_lora was there ask for `compile`."""

import os
import subprocess
import sys
from pathlib import Path

import keras

ROOT = Path(__file__).parents[2]
SCRIPT = """
import gc

import keras
import numpy as np

x, y = np.random.rand(8, 4), np.random.rand(8, 2)
base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])


class Outer(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner, self.head = base, keras.layers.Dense(2)

    def call(self, inputs):
        return self.head(self.inner(inputs))


outer = Outer()
other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
for model in (outer, other):
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
gc.collect()
gc.freeze()

import keras_lora

keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
other.fit(x, y, verbose=0)
for act in (outer.fit, outer.train_on_batch):
    try:
        act(x, y)
    except ValueError as error:
        assert "compile" in str(error), error
    else:
        raise AssertionError("a stale function trained")
outer.compile(keras.optimizers.SGD(1.0), "mse")
outer.fit(x, y, verbose=0)
adapted = outer.predict(x, verbose=0)
keras_lora.eject(base)
assert np.abs(outer.predict(x, verbose=0) - adapted).max() > 1e-4
"""


def test_one_made_before_the_import_and_hidden_from_gc_does():
    subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
    )
