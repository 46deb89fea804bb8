"""The demo's models are compiled so that training starts soon."""

import keras
import numpy as np
import pytest

from app.learn.training import compile_for


class Calls(keras.layers.Layer):
    """Counts how often it is called, which tracing does once."""

    count = 0

    def call(self, x):
        self.count += 1
        return x


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's tracing"
)
def test_the_first_step_is_traced_once():
    calls = Calls()
    model = keras.Sequential([keras.Input((4,)), calls, keras.layers.Dense(3)])
    compile_for(model, 0.1, 10)
    x, y = np.ones((8, 4), "float32"), np.zeros(8, "int32")
    before, start = calls.count, model.layers[-1].kernel.numpy()
    for _ in range(2):  # the rate is zero in the first step
        model.train_on_batch(x, y)
    assert calls.count == before + 1
    assert (model.layers[-1].kernel.numpy() != start).any()


def test_no_text_is_counted_before_training():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    compile_for(model, 0.1, 10)
    model.layers[-1].set_weights([np.zeros((4, 3)), np.array([1.0, 0.0, 0.0])])
    x, y = np.ones((8, 4), "float32"), np.full(8, 2, "int32")
    found = model.train_on_batch(x, y, return_dict=True)
    assert found["accuracy"] == 0.0
