"""Every public name says what it takes, refuses and gives, by example."""

import dataclasses
import inspect
import re

import keras
import numpy as np
import pytest

import keras_lora
from tests.models import hub

NAMES = sorted(keras_lora.__all__)


def parts(name):
    return inspect.cleandoc(getattr(keras_lora, name).__doc__ or "")


def parameters(thing):
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if field.init]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        name
        for name, parameter in inspect.signature(thing).parameters.items()
        if parameter.kind not in kinds
    ]


def test_nothing_else_is_public():
    import types

    found = {
        name
        for name, value in vars(keras_lora).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert found <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented(name):
    text = parts(name)
    first, _, rest = text.partition("\n")
    assert first.endswith(".") and len(first) <= 80, first
    assert "Args:" in rest
    assert "Raises:" in rest
    assert "Example:" in rest
    described = rest.partition("Args:")[2].partition("Raises:")[0]
    for parameter in parameters(getattr(keras_lora, name)):
        assert re.search(rf"^ +{parameter}: ", described, re.M), parameter
    thing = getattr(keras_lora, name)
    if inspect.isfunction(thing):
        assert "Returns:" in rest or "Yields:" in rest or returns_none(thing)


def returns_none(function):
    return inspect.signature(function).return_annotation in (None, "None")


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", parts(name), re.S)
    assert examples
    for example in examples:
        if "keras_hub" in example:
            hub()
        scope = {"keras": keras, "keras_lora": keras_lora, "np": np}
        exec(compile(example, name, "exec"), scope)


def test_results_named_in_examples_are_right():
    layer = keras_lora.LoRADense(16, rank=4, activation="relu")
    layer(np.ones((2, 8), "float32"))
    assert [v.name for v in layer.trainable_weights] == ["lora_a", "lora_b"]
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    assert keras_lora.find_targets(model) == ["dense"]
    for name, options, shape, expected in (
        ("LoRAConv1D", {"padding": "causal"}, (2, 10, 8), (2, 10, 16)),
        ("LoRAConv2D", {"strides": 2}, (2, 9, 9, 8), (2, 4, 4, 16)),
    ):
        layer = getattr(keras_lora, name)(16, 3, rank=4, **options)
        assert tuple(layer(np.ones(shape, "float32")).shape) == expected
