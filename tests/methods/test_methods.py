"""Every method on small models: at birth, trained, saved, merged, served."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import EVA, AdapterConfig, DoRAConfig, IA3Config, LoRAConfig
from tests.bank.test_bank_models import EQUATIONS, check_mixed, twice, two_tasks
from tests.banks import assert_rows, call, make_task, served
from tests.elsewhere import outputs_of_saved_adapter
from tests.helpers import gradients, numpy_of
from tests.models import (
    KINDS,
    compile_for,
    difference,
    fit,
    labels_for,
    outputs_of,
    predictions_of,
    rounding,
    same_bits,
    set_random,
    to_tensors,
    values_of,
)
from tests.rewrite.test_every_model import Adapted, Facts

METHODS = {
    "rslora": lambda kind: LoRAConfig(3, 4, targets=kind.lora, scale="rslora"),
    "svd": lambda kind: LoRAConfig(2, 4, targets=kind.lora, init="svd"),
    "svd-minor": lambda kind: LoRAConfig(
        3, 4, 0.2, targets=kind.lora, init="svd-minor"
    ),
    "eva": lambda kind: LoRAConfig(
        2, 4, targets=kind.lora, init=EVA([to_tensors(kind.inputs())], rho=1.5)
    ),
    "dora": lambda kind: DoRAConfig(2, 4, targets=linear(kind)),
    "dora-dropout": lambda kind: DoRAConfig(
        2, 4, 0.2, linear(kind), scale="rslora"
    ),
    "ia3": lambda kind: IA3Config(targets=linear(kind)),
    "parallel": lambda kind: AdapterConfig(
        2,
        activation="tanh",
        targets=kind.outputs,
        layer_norm=True,
        placement="parallel",
        scale=4.0,
    ),
}
MERGED = ("rslora", "svd", "svd-minor", "eva", "dora", "dora-dropout")
NAMES = [
    "functional",
    "flattened",
    "subclassed",
    "attention",
    "shared_layer",
    "bert_backbone",
]
every_kind = pytest.mark.parametrize("name", NAMES)
every_method = pytest.mark.parametrize("method", METHODS)


def linear(kind):
    return "all-linear" if isinstance(kind.lora, list) else kind.lora


class Case(Adapted):
    """A model of a kind and one of the methods above."""

    def __init__(self, name, method):
        super().__init__(name, "lora")
        self.config = METHODS[method](self.kind)


@every_kind
@every_method
def test_it_starts_as_the_base_and_is_switched_off(name, method):
    case = Case(name, method)
    model, x = case.model, case.x
    compiled = predictions_of(model, x)
    case.inject()
    assert same_bits(case.outputs, outputs_of(model, x))
    fresh = predictions_of(model, x)
    assert difference(compiled, fresh) <= rounding(fresh)
    set_random(model.trainable_variables, seed=5, size=0.1)
    on = outputs_of(model, x)
    assert difference(case.outputs, on) > 1e-2
    with keras_lora.disabled(model):
        assert same_bits(case.base_outputs, outputs_of(case.base, x))
    assert same_bits(on, outputs_of(model, x))


@every_kind
@every_method
def test_training_moves_all_of_it_and_nothing_of_the_base(name, method):
    case = Case(name, method).inject()
    model = case.model
    trained, frozen = model.trainable_variables, model.non_trainable_weights
    assert trained
    model.trainable = False
    model.trainable = True
    assert list(map(id, model.trainable_variables)) == list(map(id, trained))
    before, base = values_of(trained), values_of(frozen)
    labels = labels_for(model, case.x)
    fit(compile_for(model, labels), case.x, labels)
    assert same_bits(base, values_of(frozen))
    still = [
        v.path
        for v, old, new in zip(trained, before, values_of(trained), strict=True)
        if np.array_equal(old, new)
    ]
    assert not still


@pytest.mark.parametrize("name", ["flattened", "subclassed", "bert_backbone"])
@every_method
def test_a_new_process_gives_the_same_from_its_file(
    name, method, tmp_path, elsewhere
):
    case = Case(name, method).with_values()
    file = tmp_path / "task.safetensors"
    keras_lora.save_adapter(case.model, file)
    there = elsewhere(outputs_of_saved_adapter, name, file)
    assert difference(outputs_of(case.model, case.x), there) <= 1e-5


@pytest.mark.parametrize("name", ["functional", "attention"])
@every_method
def test_keras_saves_and_loads_it(name, method, tmp_path):
    case = Case(name, method).with_values()
    case.model.save(tmp_path / "model.keras")
    case.model.save_weights(tmp_path / "model.weights.h5")
    adapted = outputs_of(case.model, case.x)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert difference(adapted, outputs_of(loaded, case.x)) <= 1e-6
    set_random(case.model.trainable_variables, seed=9)
    case.model.load_weights(tmp_path / "model.weights.h5")
    assert same_bits(adapted, outputs_of(case.model, case.x))
    trained = [v.path for v in case.model.trainable_variables]
    assert len(loaded.trainable_variables) == len(trained)


@every_kind
@every_method
def test_eject_gives_the_base_back(name, method):
    case = Case(name, method).with_values()
    keras_lora.eject(case.model)
    case.before.assert_same(Facts(case.base))
    assert same_bits(case.base_outputs, outputs_of(case.base, case.x))


@every_kind
@every_method
def test_merge_gives_the_same_plain_model_or_refuses(name, method):
    case = Case(name, method).with_values()
    adapted = outputs_of(case.model, case.x)
    if method not in MERGED:
        with pytest.raises(ValueError, match="cannot be folded|factors scale"):
            keras_lora.merge(case.model)
        return
    keras_lora.merge(case.base)
    case.before.assert_same(Facts(case.base), values=False)
    merged = outputs_of(case.model, case.x)
    assert difference(adapted, merged) <= rounding(adapted)


@every_kind
def test_rows_of_a_batch_have_their_own_methods(name, tmp_path):
    kind = KINDS[name]
    base, x = kind.base(), twice(kind.inputs())
    tasks = {
        method: make_task(
            base,
            tmp_path / method,
            METHODS[method](kind),
            x,
            head=kind.model if name == "flattened" else None,
            seed=number,
            size=0.2,
        )
        for number, method in enumerate(METHODS)
    }
    plain = call(base, x)
    names = [*METHODS, None, *METHODS, *METHODS][: len(first_of(x))]
    with served(base) as bank:
        for method, task in tasks.items():
            bank.load(method, task.path)
        for order in (names, names[::-1]):
            rows = bank.predict(x, adapter=order)
            assert_rows(rows, order, tasks, plain)


def first_of(x):
    return keras.tree.flatten(x)[0]


# DoRA.


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


# IA3.


def test_ia3_rescales_what_comes_out_of_a_layer():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, activation="tanh")]
    )
    set_random(model.weights)
    x = np.random.default_rng(3).normal(size=(4, 5)).astype("float32")
    plain = numpy_of(model(x))
    keras_lora.inject(model, IA3Config("all-linear"))
    gain = np.array([0.5, -1.0, 2.0], "float32")
    model.trainable_variables[0].assign(gain)
    np.testing.assert_allclose(
        numpy_of(model(x)), plain * (1 + gain), rtol=1e-6
    )


def test_ia3_goes_to_keys_values_and_wide_layers():
    pytest.importorskip("keras_hub")
    model = KINDS["bert_backbone"].base()
    keras_lora.inject(model, IA3Config(layers=[1]))
    block = "transformer_layer_1"
    assert [row.path for row in keras_lora.summary(model).rows] == [
        f"{block}/self_attention_layer/key",
        f"{block}/self_attention_layer/value",
        f"{block}/feedforward_intermediate_dense",
    ]
    with pytest.raises(ValueError, match="matches no layer"):
        keras_lora.inject(KINDS["functional"].base(), IA3Config())
    with pytest.raises(ValueError, match="targets=5(.|\n)*layers=5|layers=5"):
        IA3Config(5, 5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_ia3_on_every_equation_is_served(equation, tmp_path):
    einsum, shape_out, shape_in = EQUATIONS[equation]
    inputs = keras.Input(shape_in)
    dense = layers.EinsumDense(einsum, shape_out, activation="tanh")
    base = keras.Model(inputs, dense(inputs))
    set_random(base.weights)
    x = np.random.default_rng(1).normal(size=(8, *shape_in)).astype("float32")
    config = IA3Config("all-linear")
    tasks = {
        name: make_task(base, tmp_path / name, config, x, seed=ord(name))
        for name in "ab"
    }
    check_mixed(base, x, tasks)
