"""Heads that hold operations of a graph: a part of a tensor, or a mean."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from keras_lora import LoRAConfig
from keras_lora.files.layer_cost import layer_cost
from keras_lora.files.sizes import Unclear
from tests.banks import far_apart, off, served
from tests.files.test_adapter_file import contents, rewritten
from tests.models import STEPS, WORDS, hub, set_random, tokens

LENGTH, WIDTH = 5, 6
OPERATIONS = {
    "first": lambda y: y[:, 0],
    "last": lambda y: y[:, -1, :],
    "some": lambda y: layers.Flatten()(y[:, 1:4:2]),
    "dots": lambda y: y[:, 2, ...],
    "new axis": lambda y: layers.Flatten()(y[:, None, 0]),
    "two steps": lambda y: y[:, 1:][:, 0],
    "mean": lambda y: ops.mean(y, axis=1),
    "kept mean": lambda y: layers.Flatten()(ops.mean(y, (1,), keepdims=True)),
}


def sequence_base():
    inputs = keras.Input((LENGTH, 3))
    y = layers.Dense(WIDTH, activation="tanh")(inputs)
    base = keras.Model(inputs, layers.Dense(WIDTH)(y))
    set_random(base.weights, 0)
    return base


def trained_file(base, model, x, path):
    """A file of a model around a base, and what the model answers."""
    before = np.asarray(ops.convert_to_numpy(model(x)))
    keras_lora.inject(base, LoRAConfig(2))
    set_random(model.trainable_variables, 1, 0.3)
    keras_lora.save_adapter(model, path)
    after = np.asarray(ops.convert_to_numpy(model(x)))
    keras_lora.eject(base)
    assert far_apart(before, after)
    return after


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_head_with_an_operation_is_rebuilt_and_served(name, tmp_path):
    base = sequence_base()
    x = np.random.default_rng(0).normal(size=(4, LENGTH, 3)).astype("f4")
    y = layers.Dense(2)(OPERATIONS[name](base(base.input)))
    model, path = keras.Model(base.input, y), tmp_path / "a.safetensors"
    expected = trained_file(base, model, x, path)
    info = keras_lora.inspect_adapter(path)
    assert not info.outside
    with served(base) as bank:
        bank.load("a", path)
        assert off(bank.predict(x, "a"), expected) < 1e-5
        mixed = bank.predict(x, ["a", None, "a", None])
        assert off(mixed[2], expected[2]) < 1e-5
    keras_lora.load_adapter(model, path)
    assert off(ops.convert_to_numpy(model(x)), expected) < 1e-6


@pytest.mark.parametrize(
    "operation",
    [
        lambda y: y[1:, 0],
        lambda y: ops.mean(y, axis=(0, 1)) + y[:, 0],
        lambda y: ops.max(y, axis=1),
    ],
)
def test_other_operations_stay_outside_weights(operation, tmp_path):
    base = sequence_base()
    y = layers.Dense(2, name="top")(operation(base(base.input)))
    model = keras.Model(base.input, y)
    keras_lora.inject(base, LoRAConfig(2))
    keras_lora.save_adapter(model, tmp_path / "a")
    info = keras_lora.inspect_adapter(tmp_path / "a")
    assert info.head is None and info.outside == ("top",)


@pytest.mark.parametrize(
    "config",
    [
        {"key": []},
        {"key": [0]},
        {"key": [[None, 2, None], 0]},
        {"key": [["x", None, None], 0]},
        {"key": [[None, None, None], "0"]},
        {"key": [[None, None, None], True]},
        {"key": [[None, None, None], *[None] * 99]},
        {"key": [[None, None, None], [0, 4, 0]]},
        {},
    ],
)
def test_a_forged_key_is_refused(config, tmp_path):
    base = sequence_base()
    y = layers.Dense(2)(base(base.input)[:, 0])
    model, path = keras.Model(base.input, y), tmp_path / "a.safetensors"
    keras_lora.inject(base, LoRAConfig(2))
    keras_lora.save_adapter(model, path)
    keras_lora.eject(base)
    tensors, record = contents(path)
    record["head"]["layers"][0]["config"] = config
    path = rewritten(path, tensors, record)
    with served(base) as bank, pytest.raises(ValueError, match="head"):
        bank.load("a", path)


def vit(**options):
    models = hub().models
    backbone = models.ViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
    )
    return models.ViTImageClassifier(backbone, num_classes=2, **options)


def roberta():
    models = hub().models
    backbone = models.RobertaBackbone(
        vocabulary_size=WORDS,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=STEPS,
    )
    return models.RobertaTextClassifier(backbone, num_classes=2)


def images():
    return np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype("f4")


@pytest.mark.parametrize(
    ("classifier", "inputs"),
    [
        (vit, images),
        (lambda: vit(pooling="gap", intermediate_dim=4), images),
        (roberta, tokens),
    ],
    ids=["token", "mean", "roberta"],
)
def test_a_classifier_s_head_on_its_backbone_is_served(
    classifier, inputs, tmp_path
):
    task, x, path = classifier(), inputs(), tmp_path / "a.safetensors"
    set_random(task.weights, 0)
    expected = trained_file(task.backbone, task, x, path)
    with served(task.backbone) as bank:
        bank.load("a", path)
        assert off(bank.predict(x, "a"), expected) < 1e-5


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operations_shape_is_told_from_its_config(name, tmp_path):
    """Its cost is counted before it is built."""
    base = sequence_base()
    y = OPERATIONS[name](base(base.input))
    model, path = keras.Model(base.input, y), tmp_path / "a.safetensors"
    keras_lora.inject(base, LoRAConfig(2))
    keras_lora.save_adapter(model, path)
    shape = (1, LENGTH, WIDTH)
    for entry in keras_lora.inspect_adapter(path).head["layers"]:
        shape = layer_cost(entry["class"], entry["config"], shape).shape
    assert shape == (1, *y.shape[1:])


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("GetItem", {"key": [[None, None, None], [None, None, 0]]}),
        ("GetItem", {"key": [[None, None, None]] + [1] * 5}),
        ("GetItem", {"key": "all"}),
        ("Mean", {"axis": [0]}),
        ("Mean", {"axis": [9]}),
        ("Mean", {"axis": [True]}),
        ("Mean", {}),
    ],
)
def test_an_operation_that_is_none_is_refused_before_it_is_made(kind, config):
    with pytest.raises(Unclear):
        layer_cost(kind, config, (1, LENGTH, WIDTH))
