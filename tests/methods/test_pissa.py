"""PiSSA and MiLoRA: factors that start as a part of the base's kernels."""

import logging

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import LoRAConfig
from keras_lora.methods.lora.spectrum import leading, least
from tests.banks import call, off, served
from tests.helpers import normal, numpy_of, state
from tests.methods.contract import Contract
from tests.models import (
    KINDS,
    compile_for,
    fit,
    hub,
    labels_for,
    outputs_of,
    same_bits,
    set_random,
)


class TestPiSSA(Contract):
    method = "svd"
    configs = {
        "svd": lambda kind: LoRAConfig(2, 4, targets=kind.lora, init="svd"),
        "svd-minor": lambda kind: LoRAConfig(
            3, 4, 0.2, targets=kind.lora, init="svd-minor"
        ),
    }
    fixed = ("start_a", "start_b")


def dense(width=6, seed=0, steps=()):
    model = keras.Sequential(
        [keras.Input((*steps, 5)), layers.Dense(width, activation="tanh")]
    )
    set_random(model.weights, seed)
    return model


def factors(model):
    host = model.layers[0]
    return {k: numpy_of(v) for k, v in host.adapter_weights.items()}


@pytest.mark.parametrize(
    "init,part", [("svd", slice(2)), ("svd-minor", slice(3, 5))]
)
def test_factors_are_a_part_of_the_kernel_that_stays(init, part):
    model = dense()
    kernel = numpy_of(model.layers[0].kernel)
    keras_lora.inject(model, LoRAConfig(2, alpha=6, init=init))
    w = factors(model)
    u, s, vt = np.linalg.svd(kernel, full_matrices=False)
    expected = (u[:, part] * s[part]) @ vt[part]
    scaled = 3 * w["lora_a"] @ w["lora_b"]
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    np.testing.assert_array_equal(w["lora_a"], w["start_a"])
    np.testing.assert_array_equal(w["lora_b"], w["start_b"])
    np.testing.assert_array_equal(numpy_of(model.layers[0].kernel), kernel)
    names = [v.name for v in model.trainable_variables]
    assert names == ["lora_a", "lora_b"]


@pytest.mark.parametrize("steps", [(), (4,)])
def test_it_trains_as_where_the_part_leaves_the_kernel(steps):
    x, y = normal(8, *steps, 5), normal(8, *steps, 6, seed=1)
    ours, theirs = dense(steps=steps), dense(steps=steps)
    keras_lora.inject(ours, LoRAConfig(2, alpha=2, init="svd"))
    w = factors(ours)
    kernel = theirs.layers[0].kernel
    kernel.assign(numpy_of(kernel) - w["lora_a"] @ w["lora_b"])
    keras_lora.inject(theirs, LoRAConfig(2, alpha=2))
    for name in ("lora_a", "lora_b"):
        theirs.layers[0].adapter_weights[name].assign(w[name])
    for model in (ours, theirs):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for name in ("lora_a", "lora_b"):
        np.testing.assert_allclose(
            factors(ours)[name], factors(theirs)[name], atol=1e-5
        )
    assert off(call(ours, x), call(theirs, x)) < 1e-5
    assert np.abs(factors(ours)["lora_a"] - w["lora_a"]).max() > 1e-3


def test_its_file_is_a_plain_lora_of_twice_the_rank(tmp_path):
    model, x = dense(), normal(4, 5)
    plain = call(model, x)
    keras_lora.inject(model, LoRAConfig(2, alpha=6, init="svd"))
    set_random(model.trainable_variables, seed=4)
    adapted = call(model, x)
    assert off(adapted, plain) > 1e-2
    path = tmp_path / "task"
    keras_lora.save_adapter(model, path)
    info = keras_lora.inspect_adapter(path)
    assert info.layers["dense"] == {
        "method": "lora",
        "rank": 4,
        "alpha": 12.0,
        "dropout": 0.0,
    }
    other = keras_lora.load_adapter(dense(), path)
    assert off(call(other, x), adapted) < 1e-6
    assert len(other.trainable_variables) == 2
    with served(dense()) as bank:
        bank.load("task", path)
        assert off(bank.predict(x, adapter="task"), adapted) < 1e-5
    keras_lora.combine([(path, 1.0)], tmp_path / "half", method="svd", rank=4)
    other = keras_lora.load_adapter(dense(), tmp_path / "half")
    assert off(call(other, x), adapted) < 1e-5


def test_a_rank_beyond_the_kernels_still_trains_all_of_it():
    model = dense()
    x = normal(8, 5)
    plain = outputs_of(model, x)
    keras_lora.inject(model, LoRAConfig(9, init="svd"))
    assert same_bits(plain, outputs_of(model, x))
    before = factors(model)
    labels = labels_for(model, x)
    fit(compile_for(model, labels), x, labels)
    after = factors(model)
    for name in ("lora_a", "lora_b"):
        moved = np.abs(after[name] - before[name])
        assert (moved.max(axis=0 if name == "lora_a" else 1) > 0).all()


@pytest.mark.parametrize("name", ["embedding", "convolutions", "gemma"])
def test_every_kind_of_kernel_starts_as_the_base(name, tmp_path):
    kind = KINDS[name]
    if kind.needs_keras_hub:
        hub()
    base, x = kind.base(), kind.inputs()
    plain = outputs_of(base, x)
    keras_lora.inject(base, LoRAConfig(2, targets=kind.lora, init="svd"))
    assert same_bits(plain, outputs_of(base, x))
    set_random(base.trainable_variables, seed=3, size=0.1)
    adapted = call(base, x)
    with keras_lora.disabled(base):
        assert same_bits(plain, outputs_of(base, x))
    keras_lora.save_adapter(base, tmp_path / "task")
    keras_lora.load_adapter(keras_lora.eject(base), tmp_path / "task")
    assert off(call(base, x), adapted) < 1e-5
    keras_lora.merge(base)
    assert off(call(base, x), adapted) < 1e-5


def test_the_time_that_the_svd_took_is_logged(caplog):
    with caplog.at_level(logging.INFO, "keras_lora"):
        keras_lora.inject(dense(), LoRAConfig(2, init="svd"))
    assert "SVD of 1 kernels took" in caplog.text


def test_a_quantized_kernel_is_refused():
    model = dense()
    model.quantize("int8")
    before = state(model)
    with pytest.raises(ValueError, match="dense: quantized .int8."):
        keras_lora.inject(model, LoRAConfig(2, init="svd"))
    assert state(model) == before


def test_singular_vectors_of_a_large_matrix_are_found_without_all_of_them():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(900, 700)))[0]
    p = np.linalg.qr(rng.normal(size=(700, 700)))[0]
    values = 10 * 0.9 ** np.arange(700)
    w = (q * values) @ p.T
    u, s, vt = leading(w, 8)
    np.testing.assert_allclose(s, values[:8], rtol=1e-5)
    np.testing.assert_allclose(w @ vt.T, u * s, atol=1e-3)
    u, s, vt = least(w[:60, :50], 4)
    np.testing.assert_allclose(w[:60, :50] @ vt.T, u * s, atol=1e-9)
    assert s.max() < 1e-3
