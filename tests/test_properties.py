"""The laws on random models with random adapters.

A few examples by default; `pytest --hypothesis-profile=thorough` runs many.
"""

import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.helpers import normal
from tests.models import (
    difference,
    outputs_of,
    rounding,
    same_bits,
    set_random,
    values_of,
)

STEPS = 4
WORDS = 7
# Keras compiles nothing here, but each example builds models.
few = settings(max_examples=max(1, settings().max_examples // 8))
# Here it does, for each example.
fewer = settings(max_examples=max(1, settings().max_examples // 25))

widths = st.integers(1, 6)
activations = st.sampled_from(["linear", "tanh", "relu"])
blocks = st.one_of(
    st.tuples(st.just("dense"), widths, activations, st.booleans()),
    st.tuples(
        st.just("einsum"),
        st.sampled_from(["abc,cd->abd", "abc,dc->abd", "...x,xy->...y"]),
        widths,
    ),
    st.tuples(st.just("heads"), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(
        st.just("conv"),
        widths,
        st.integers(1, 3),
        st.sampled_from(["same", "causal"]),
        st.integers(1, 2),
    ),
    st.tuples(st.just("nested"), widths),
    st.tuples(st.just("again")),
    st.tuples(st.just("norm"), st.sampled_from(["layer", "batch"])),
)
models = st.tuples(st.booleans(), st.lists(blocks, min_size=1, max_size=4))


def grow(y, block, made):
    """Puts one block on a tensor (batch, steps, width)."""
    kind, *sizes = block
    width = y.shape[-1]
    if kind == "dense":
        units, activation, bias = sizes
        made.append(layers.Dense(units, activation, use_bias=bias))
        return made[-1](y)
    if kind == "einsum":
        equation, units = sizes
        shape = (STEPS, units) if "." not in equation else (units,)
        shape = (None, units) if "." not in equation else shape
        return layers.EinsumDense(equation, shape, bias_axes=None)(y)
    if kind == "heads":
        heads, size = sizes
        y = layers.EinsumDense(
            "abc,cde->abde", (None, heads, size), bias_axes="de"
        )(y)
        return layers.EinsumDense("abde,dec->abc", (None, width))(y)
    if kind == "conv":
        filters, kernel, padding, groups = sizes
        groups = groups if width % groups == filters % groups == 0 else 1
        return layers.Conv1D(filters, kernel, padding=padding, groups=groups)(y)
    if kind == "nested":
        inner = keras.Sequential(
            [keras.Input((STEPS, width)), layers.Dense(*sizes, "tanh")]
        )
        return inner(y)
    if kind == "again":
        # A layer that is used twice, where there is one that fits.
        for layer in made:
            if layer.kernel.shape[0] == width:
                return layer(y)
        made.append(layers.Dense(width))
        return made[-1](made[-1](y))
    norms = layers.LayerNormalization, layers.BatchNormalization
    return norms[sizes[0] == "batch"]()(y)


def build(model):
    """A base with random weights, alike for equal descriptions."""
    words, found = model
    i = keras.Input((STEPS,), dtype="int32") if words else None
    i = keras.Input((STEPS, 3)) if i is None else i
    y = layers.Embedding(WORDS, 3)(i) if words else i
    made = []
    for block in found:
        y = grow(y, block, made)
    base = keras.Model(i, layers.Dense(2)(y))
    set_random(base.weights, 2)
    return base


def rows(model):
    if model[0]:
        return np.random.default_rng(0).integers(0, WORDS, (3, STEPS))
    return normal(3, STEPS, 3)


configs = st.one_of(
    st.builds(
        LoRAConfig,
        rank=st.integers(1, 5),
        alpha=st.floats(0.1, 4),
        dropout=st.sampled_from([0.0, 0.3]),
    ),
    st.builds(
        AdapterConfig,
        bottleneck=st.one_of(st.none(), st.integers(1, 5)),
        reduction_factor=st.floats(0.5, 8),
        activation=st.sampled_from(["relu", "gelu", "linear"]),
        dropout=st.sampled_from([0.0, 0.3]),
        layer_norm=st.booleans(),
    ),
)
picks = st.lists(st.integers(0, 9), min_size=1, max_size=4)


def on_some(base, config, numbers):
    """The config on some of the layers that may carry it."""
    paths = keras_lora.find_targets(base, r".*")
    targets = {paths[number % len(paths)] for number in numbers}
    return dataclasses.replace(config, targets=sorted(targets))


@few
@given(model=models, config=configs, numbers=picks)
def test_laws_hold_for_any_model_and_adapter(model, config, numbers):
    base, x = build(model), rows(model)
    config = on_some(base, config, numbers)
    weights, classes = base.weights, [type(la) for la in base.layers]
    values, y = values_of(weights), outputs_of(base, x)

    keras_lora.inject(base, config)
    assert same_bits(outputs_of(base, x), y), "a fresh adapter is no identity"

    set_random(base.trainable_variables, 4)
    adapted = outputs_of(base, x)
    assert same_bits(values_of(weights), values), "the base has moved"
    with keras_lora.disabled(base):
        assert same_bits(outputs_of(base, x), y), "`disabled` is not the base"

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("task", "again")]
        keras_lora.save_adapter(base, files[0])
        other = keras_lora.load_adapter(build(model), files[0])
        keras_lora.save_adapter(other, files[1])
        assert files[0].read_bytes() == files[1].read_bytes()
    assert same_bits(outputs_of(other, x), adapted), "a file changes outputs"

    if isinstance(config, LoRAConfig):
        keras_lora.merge(other)
        gap = difference(outputs_of(other, x), adapted)
        assert gap <= 10 * rounding(adapted), "merged is not the adapted"
        assert [type(la) for la in other.layers] == classes

    keras_lora.eject(base)
    assert [id(v) for v in base.weights] == [id(v) for v in weights]
    assert [type(la) for la in base.layers] == classes
    assert same_bits(values_of(base.weights), values)
    assert same_bits(outputs_of(base, x), y)


@few
@given(model=models, config=configs, numbers=picks)
def test_training_moves_the_adapter_alone(model, config, numbers):
    base, x = build(model), rows(model)
    config = on_some(base, config, numbers)
    before = values_of(base.weights)
    weights = base.weights
    keras_lora.inject(base, config)
    set_random(base.trainable_variables, 4)
    trained = values_of(base.trainable_variables)
    base.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    base.train_on_batch(x, normal(3, STEPS, 2, seed=5))
    assert same_bits(values_of(weights), before)
    assert not same_bits(values_of(base.trainable_variables), trained)


@fewer
@given(model=models, config=configs, numbers=picks)
def test_a_bank_gives_each_row_its_own_model_s_answer(model, config, numbers):
    base, x = build(model), rows(model)
    y = outputs_of(base, x)[0]
    keras_lora.inject(base, on_some(base, config, numbers))
    set_random(base.trainable_variables, 4)
    adapted = outputs_of(base, x)[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.safetensors"
        keras_lora.save_adapter(base, file)
        keras_lora.eject(base)
        bank = keras_lora.AdapterBank(base)
        bank.load("task", file)
    got = bank.predict(x, adapter=["task", None, "task"])
    want = [adapted[0], y[1], adapted[2]]
    assert difference(got, want) <= rounding([*want, y])
    bank.detach()
    assert same_bits(outputs_of(base, x), [y])
