"""Every kind of model, with both kinds of adapter, through every door."""

import itertools

import numpy as np
import pytest

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.elsewhere import outputs_of_plain_model
from tests.marks import pairs
from tests.methods.contract import Case
from tests.models import KINDS, difference, set_random, tokens

QUICK = (
    "functional",
    "flattened",
    "subclassed",
    "attention",
    "shared_layer",
    "bert_backbone",
)
every_kind = pytest.mark.parametrize("name", pairs(QUICK, KINDS))
causal = pytest.mark.parametrize(
    ("name", "method"),
    pairs(
        [("gpt2", "lora"), ("gemma", "bottleneck")],
        [("gpt2", "bottleneck"), ("gemma", "lora")],
    ),
)
COMPILED = [
    ("functional", "lora"),
    ("functional", "bottleneck"),
    ("flattened", "lora"),
    ("subclassed", "bottleneck"),
    ("attention", "lora"),
    ("recurrent", "bottleneck"),
    ("bert_classifier", "lora"),
]
"""Traced in every run; the others too where extra tests are asked for."""


def lora(kind):
    return LoRAConfig(rank=2, alpha=4, targets=kind.lora)


def bottleneck(kind):
    return AdapterConfig(bottleneck=3, activation="gelu", targets=kind.outputs)


CONFIGS = {"lora": lora, "bottleneck": bottleneck}


@every_kind
def test_lora_goes_from_inject_to_a_merged_plain_model(
    name, tmp_path, elsewhere, without_keras_lora
):
    case = Case(name, lora)

    case.goes_through(tmp_path, elsewhere, "lora")

    assert case.is_merged() <= 1e-5
    merged, file = case.now(), tmp_path / "merged.keras"
    case.model.save(file)
    there = without_keras_lora(outputs_of_plain_model, name, file)
    assert difference(merged, there) <= 1e-6


@every_kind
def test_bottlenecks_go_from_inject_to_eject_and_are_not_merged(
    name, tmp_path, elsewhere
):
    refusal = "cannot be folded into a kernel"
    Case(name, bottleneck).goes_through(
        tmp_path, elsewhere, "bottleneck", refusal
    )


@pytest.mark.parametrize(
    ("name", "method"),
    pairs(COMPILED, itertools.product(KINDS, CONFIGS)),
)
def test_compiled_functions_are_those_of_the_adapter(name, method):
    Case(name, CONFIGS[method]).holds_compiled()


@causal
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

    adapted = Case(name, CONFIGS[method])
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
