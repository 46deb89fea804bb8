"""DoRA: the contract, the paper's formula, and what it cannot read."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import DoRAConfig
from tests.bank.test_bank_models import EQUATIONS, check_mixed, twice, two_tasks
from tests.banks import call, make_task
from tests.helpers import gradients, numpy_of
from tests.methods.contract import Contract, linear
from tests.models import (
    KINDS,
    compile_for,
    fit,
    labels_for,
    outputs_of,
    same_bits,
    set_random,
)


class TestDoRA(Contract):
    method = "dora"
    configs = {
        "dora": lambda kind: DoRAConfig(2, 4, targets=linear(kind)),
        "dropout": lambda kind: DoRAConfig(
            2, 4, 0.2, linear(kind), scale="rslora"
        ),
    }


def decomposed(model, config, x):
    """What DoRA gives for one dense layer, as the paper has it."""
    w, bias = (
        numpy_of(v).astype("float64") for v in model.layers[0].weights[:2]
    )
    host = model.layers[0]
    a, b, m = (
        numpy_of(host.adapter_weights[name]).astype("float64")
        for name in ("lora_a", "lora_b", "magnitude")
    )
    v = w + a @ b * config.alpha / config.rank
    length = np.linalg.norm(w, axis=0) + m
    return x @ (v * length / np.linalg.norm(v, axis=0)) + bias


def test_dora_is_the_formula_of_the_paper():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    set_random(model.weights)
    config = DoRAConfig(2, alpha=3)
    keras_lora.inject(model, config)
    set_random(model.trainable_variables, seed=2)
    x = np.random.default_rng(3).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(
        numpy_of(model(x)), decomposed(model, config, x), rtol=1e-5, atol=1e-6
    )


def test_dora_takes_no_gradient_through_the_length():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    set_random(model.weights)
    keras_lora.inject(model, DoRAConfig(2, alpha=2))
    set_random(model.trainable_variables, seed=2)
    host = model.layers[0]
    w = numpy_of(host.weights[0])
    a, b, m = (numpy_of(v) for v in model.trainable_variables)
    x = np.random.default_rng(3).normal(size=(4, 5)).astype("float32")
    v = w + a @ b
    length = np.linalg.norm(v, axis=0)
    factor = (np.linalg.norm(w, axis=0) + m) / length
    through = x.T @ np.ones((4, 3)) * factor
    expected = [through @ b.T, a.T @ through, (x @ v).sum(0) / length]
    found = gradients(
        lambda: keras.ops.sum(model(x)), model.trainable_variables
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_dora_on_every_equation_merges_and_serves(equation, tmp_path):
    einsum, shape_out, shape_in = EQUATIONS[equation]
    inputs = keras.Input(shape_in)
    kept = [c for c in einsum.split("->")[1] if c in einsum.split(",")[1]]
    dense = layers.EinsumDense(einsum, shape_out, bias_axes=kept[-1])
    base = keras.Model(inputs, dense(inputs))
    set_random(base.weights)
    x = np.random.default_rng(1).normal(size=(8, *shape_in)).astype("float32")
    tasks = {
        name: make_task(base, tmp_path / name, DoRAConfig(rank), x, seed=rank)
        for name, rank in (("a", 1), ("b", 3))
    }
    check_mixed(base, x, tasks)
    keras_lora.load_adapter(base, tmp_path / "b")
    keras_lora.merge(base)
    merged = call(base, x)
    np.testing.assert_allclose(merged, tasks["b"].outputs, atol=1e-4)


def test_dora_and_lora_rows_share_a_layer(tmp_path):
    base = KINDS["functional"].base()
    x = twice(KINDS["functional"].inputs())
    tasks = two_tasks(base, tmp_path, x)
    for name, rank in (("c", 2), ("d", 4)):
        path = tmp_path / name
        tasks[name] = make_task(base, path, DoRAConfig(rank), x, seed=rank)
    check_mixed(base, x, tasks)


def test_dora_of_16_bits_starts_as_the_base_and_is_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    finally:
        keras.config.set_dtype_policy(before)
    set_random(model.weights)
    x = np.ones((2, 5), "float32")
    plain = outputs_of(model, x)
    keras_lora.inject(model, DoRAConfig(2))
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert same_bits(plain, outputs_of(model, x))


def test_a_column_of_zeros_stays_finite():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    kernel = np.ones((5, 3), "float32")
    kernel[:, 1] = 0
    model.layers[0].kernel.assign(kernel)
    x = np.ones((2, 5), "float32")
    plain = outputs_of(model, x)
    keras_lora.inject(model, DoRAConfig(2))
    assert same_bits(plain, outputs_of(model, x))
    labels = labels_for(model, x)
    assert np.isfinite(fit(compile_for(model, labels), x, labels)).all()
    assert np.isfinite(outputs_of(model, x)[0]).all()


def test_dora_refuses_layers_it_cannot_read():
    table = KINDS["embedding"].base()
    with pytest.raises(ValueError, match="'table' is a Embedding"):
        keras_lora.inject(table, DoRAConfig(2, targets=["table"]))
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    model.quantize("int8")
    with pytest.raises(ValueError, match="dense: quantized .int8."):
        keras_lora.inject(model, DoRAConfig(2))
    assert len(model.trainable_variables) == 1  # the bias, as before
