"""What tests of the core do to a model: fill its adapter, read its state."""

import os
import threading

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.arena import is_own
from keras_lora.methods.host import AdapterHost
from keras_lora.model import surgery


def hosts_of(model):
    """Every layer at or below `model` that has adapter weights."""
    return [
        layer
        for layer in surgery.every_layer(model)
        if isinstance(layer, AdapterHost) and layer.adapter_weights
    ]


def fill(model, scale=0.2, seed=1):
    """Gives every adapter weight a value that is not zero; returns `model`."""
    generator = np.random.default_rng(seed)
    hosts = hosts_of(model)
    assert hosts
    for layer in hosts:
        for variable in layer.adapter_weights.values():
            variable.assign(scale * generator.normal(size=variable.shape))
    return model


def normal(*shape, seed=0, dtype="float32"):
    """Fixed numbers of a shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def ends(act, pipe):
    """Runs `act`, which must not wait for somebody to write to a pipe.

    Returns:
        What it raised, or None.
    """
    found = []

    def run():
        try:
            act()
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    waited = thread.is_alive()
    while thread.is_alive():  # whoever waits reads an empty file
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        thread.join(0.1)
    assert not waited, "it waited for the pipe"
    return found[0] if found else None


def refused(act, *words):
    """`act` ends in keras_lora's own error, which has the words."""
    with pytest.raises(ValueError) as error:
        act()
    assert is_own(error.value), repr(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert len(str(error.value)) < 20_000


def numpy_of(tensor):
    """A tensor's values; those of 16 bits as float32."""
    value = ops.convert_to_tensor(tensor)
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = ops.cast(value, "float32")
    return ops.convert_to_numpy(value)


def state(model):
    """All that `inject` may change of a model, to compare before and after."""
    layers = surgery.every_layer(model)
    return {
        "classes": [type(layer) for layer in layers],
        "flags": [layer.trainable for layer in layers],
        "weights": [
            (id(v), v.trainable, numpy_of(v).tobytes()) for v in model.weights
        ],
        "compiled": getattr(model, "compiled", None),
        "attributes": [sorted(vars(layer)) for layer in layers],
    }


def gradients(function, variables):
    """The gradients of a scalar `function()` by each variable, as numpy."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            y = function()
        found = tape.gradient(y, [v.value for v in variables])
    elif backend == "jax":
        import jax

        def of_values(values):
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return function()

        found = jax.jit(jax.grad(of_values))([v.value for v in variables])
    else:
        import torch

        found = torch.autograd.grad(function(), [v.value for v in variables])
    return [numpy_of(g) for g in found]
