"""Every kind of model, with both kinds of adapter, through every door."""

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.elsewhere import outputs_of_plain_model, outputs_of_saved_adapter
from tests.models import (
    KINDS,
    compile_for,
    count_calls,
    difference,
    fit,
    labels_for,
    outputs_of,
    predictions_of,
    rounding,
    same_bits,
    set_random,
    tokens,
    values_of,
)

TORCH = keras.backend.backend() == "torch"
every_kind = pytest.mark.parametrize("name", KINDS)
every_method = pytest.mark.parametrize("method", ["lora", "bottleneck"])
causal = pytest.mark.parametrize("name", ["gpt2", "gemma"])


def config_for(name, method):
    kind = KINDS[name]
    if method == "lora":
        return LoRAConfig(rank=2, alpha=4, targets=kind.lora)
    return AdapterConfig(bottleneck=3, activation="gelu", targets=kind.outputs)


class Adapted:
    """A model of a kind, before and after its adapter is attached."""

    def __init__(self, name, method):
        self.kind = KINDS[name]
        self.base = self.kind.base()
        self.model = self.kind.model(self.base)
        self.x = self.kind.inputs()
        self.before = Facts(self.base)
        self.outputs = outputs_of(self.model, self.x)
        self.base_outputs = outputs_of(self.base, self.x)
        self.config = config_for(name, method)

    def inject(self):
        keras_lora.inject(self.base, self.config, train=self.kind.train)
        return self

    def with_values(self):
        """Attaches an adapter that changes the output."""
        self.inject()
        set_random(self.model.trainable_variables, seed=5, size=0.1)
        assert difference(self.outputs, outputs_of(self.model, self.x)) > 1e-2
        return self


class Facts:
    """What `eject` has to give back of a base."""

    def __init__(self, base):
        layers = base._flatten_layers()
        self.classes = [type(layer) for layer in layers]
        self.trainable = [layer.trainable for layer in layers]
        self.weights = list(base.weights)
        self.ids = [id(v) for v in base.weights]
        self.variable_ids = [id(v) for v in base.variables]
        self.flags = [v.trainable for v in base.weights]
        self.trainable_ids = [id(v) for v in base.trainable_weights]
        self.paths = [v.path for v in base.weights]
        self.values = values_of(base.weights)

    def assert_same(self, other, values=True):
        mine, theirs = dict(vars(self)), dict(vars(other))
        assert same_bits(mine.pop("values"), theirs.pop("values")) or not values
        mine.pop("weights"), theirs.pop("weights")
        assert mine == theirs


@every_kind
@every_method
def test_fresh_or_disabled_adapter_gives_the_base_output(name, method):
    adapted = Adapted(name, method)
    model, x = adapted.model, adapted.x
    base_compiled = predictions_of(model, x)

    adapted.inject()
    calls = count_calls(model)
    fresh_compiled = predictions_of(model, x)
    traces = len(calls)
    assert same_bits(adapted.outputs, outputs_of(model, x))

    set_random(adapted.base.trainable_variables, seed=5, size=0.1)
    assert difference(adapted.outputs, outputs_of(model, x)) > 1e-2
    calls.clear()
    on = predictions_of(model, x)
    with keras_lora.disabled(model):
        off = predictions_of(model, x)
    again = predictions_of(model, x)
    assert traces and (TORCH or not calls)
    with keras_lora.disabled(model):
        assert same_bits(adapted.base_outputs, outputs_of(adapted.base, x))

    assert difference(base_compiled, fresh_compiled) <= rounding(fresh_compiled)
    assert same_bits(fresh_compiled, off)
    assert difference(on, off) > 1e-3
    assert same_bits(on, again)


@every_kind
@every_method
def test_fit_moves_the_adapter_and_nothing_of_the_base(name, method):
    adapted = Adapted(name, method)
    model, base, x = adapted.model, adapted.base, adapted.x
    layers_to_train = [
        layer
        for path, layer in zip(
            [v.path for v in base.weights], base.weights, strict=True
        )
        if any(f"/{t}/" in f"/{path}" for t in adapted.kind.train)
    ]
    in_base = {id(v) for v in base.weights}
    of_head = [v for v in model.weights if id(v) not in in_base]
    labels = labels_for(model, x)
    adapted.inject()
    trained_ids = {id(v) for v in layers_to_train}
    of_adapter = [v for v in base.weights if id(v) not in in_base]
    frozen = [v for v in adapted.before.weights if id(v) not in trained_ids]
    expected = [*of_adapter, *layers_to_train, *of_head]
    assert of_adapter
    assert {id(v) for v in model.trainable_variables} == set(map(id, expected))
    frozen_before, before = values_of(frozen), values_of(expected)

    model.trainable = False
    assert model.trainable_variables == []
    model.trainable = True
    assert {id(v) for v in model.trainable_variables} == set(map(id, expected))
    fit(compile_for(model, labels), x, labels)

    assert same_bits(frozen_before, values_of(frozen))
    moved = [
        variable.path
        for variable, old, new in zip(
            expected, before, values_of(expected), strict=True
        )
        if not np.array_equal(old, new)
    ]
    assert moved == [variable.path for variable in expected]
    assert difference(adapted.outputs, outputs_of(model, x)) > 1e-3


@every_kind
@every_method
def test_saved_adapter_gives_the_same_output_in_a_new_process(
    name, method, tmp_path, elsewhere
):
    adapted = Adapted(name, method).with_values()
    file = tmp_path / "task.safetensors"

    keras_lora.save_adapter(adapted.model, file)

    there = elsewhere(outputs_of_saved_adapter, name, file)
    assert difference(outputs_of(adapted.model, adapted.x), there) <= 1e-5


@every_kind
def test_merged_model_is_plain_and_gives_the_same_output(
    name, tmp_path, without_keras_lora
):
    adapted = Adapted(name, "lora").with_values()
    unmerged = outputs_of(adapted.model, adapted.x)

    keras_lora.merge(adapted.base)

    adapted.before.assert_same(Facts(adapted.base), values=False)
    merged = outputs_of(adapted.model, adapted.x)
    assert difference(unmerged, merged) <= 1e-5
    file = tmp_path / "merged.keras"
    adapted.model.save(file)
    there = without_keras_lora(outputs_of_plain_model, name, file)
    assert difference(merged, there) <= 1e-6


@every_kind
def test_merge_refuses_bottlenecks_and_leaves_the_model(name):
    adapted = Adapted(name, "bottleneck").with_values()
    before = Facts(adapted.model)

    with pytest.raises(ValueError, match="cannot be folded into a kernel"):
        keras_lora.merge(adapted.model)

    before.assert_same(Facts(adapted.model))


@every_kind
@every_method
def test_eject_gives_the_base_back_bit_for_bit(name, method):
    adapted = Adapted(name, method).with_values()

    keras_lora.eject(adapted.model)

    adapted.before.assert_same(Facts(adapted.base))
    assert same_bits(adapted.base_outputs, outputs_of(adapted.base, adapted.x))


@causal
@every_method
def test_generate_works_before_with_and_after_an_adapter(name, method):
    def generate(model):
        words = {
            key: np.concatenate(
                [value[1:], value[1:] * (key != "token_ids")], 1
            )
            for key, value in tokens().items()
        }
        words["padding_mask"][:, words["padding_mask"].shape[1] // 2 :] = 0
        return model.generate(words, stop_token_ids=None)["token_ids"]

    adapted = Adapted(name, method)
    adapted.model.compile(sampler="greedy")
    before = generate(adapted.model)
    adapted.inject()
    fresh = generate(adapted.model)
    set_random(adapted.model.trainable_variables, seed=5, size=0.5)
    changed = generate(adapted.model)
    with keras_lora.disabled(adapted.model):
        off = generate(adapted.model)
    if method == "lora":
        merged = adapted.kind.base()
        merged.compile(sampler="greedy")
        keras_lora.inject(merged, adapted.config)
        set_random(merged.trainable_variables, seed=5, size=0.5)
        assert np.array_equal(generate(keras_lora.merge(merged)), changed)
    keras_lora.eject(adapted.model)

    assert np.array_equal(before, fresh)
    assert not np.array_equal(before, changed)
    assert np.array_equal(before, off)
    assert np.array_equal(before, generate(adapted.model))
