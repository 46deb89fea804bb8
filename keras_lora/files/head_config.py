"""A head as it stands in a file: configs of plain layers, and their weights.

Layers are made by name from an allow-list; nothing is imported or run.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lora.errors import LONGEST, printable, raise_if
from keras_lora.files.head_cost import head_problems
from keras_lora.files.head_ops import OPERATIONS
from keras_lora.files.record import HEAD
from keras_lora.model import surgery
from keras_lora.model.checks import differing
from keras_lora.model.paths import join, own_variables
from keras_lora.model.surgery import Layer

PLAIN_LAYERS = (
    "Activation",
    "AlphaDropout",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Dense",
    "Dropout",
    "EinsumDense",
    "ELU",
    "Flatten",
    "GetItem",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GroupNormalization",
    "Identity",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Mean",
    "PReLU",
    "Permute",
    "ReLU",
    "RMSNormalization",
    "Rescaling",
    "Reshape",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "UnitNormalization",
)
"""Layers that a file may name; none runs anything that a config holds.

Keras has no layer of the names in `OPERATIONS`.
"""
LEFT_OUT = ("initializer", "regularizer", "constraint")
"""What a config says for training only: weights come from the file."""


def layer_config(layer: Layer, called: str) -> dict[str, Any] | None:
    """A plain layer's class, config and input shape, or None."""
    name = type(layer).__name__
    if type(layer) is not plain_class(name) or not layer.built:
        return None
    given = {"dtype": layer.dtype_policy.name, "name": called}
    config = {
        key: given.get(key, value)
        for key, value in layer.get_config().items()
        if not key.endswith(LEFT_OUT) and key != "quantization_config"
    }
    if not is_plain(list(config.values())):
        return None
    shape = surgery.build_shape(layer)
    if shape is None and own_variables(layer):
        return None
    return {"class": name, "config": config, "input_shape": shape}


def plain_class(name: str) -> Any:
    """The layer of an allowed name."""
    if name not in PLAIN_LAYERS:
        return None
    return OPERATIONS.get(name) or getattr(keras.layers, name, None)


def is_plain(value: Any) -> bool:
    """Whether a config's value is numbers, strings and lists of them."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def wrong_head(
    head: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    base: Sequence[int | None] | None = None,
) -> list[str]:
    """Says why a head in a file is not built; nothing of it is, for that.

    Args:
        head: As it stands in the record.
        shapes: The shape of each tensor of the file, by key.
        base: The shape of the base's output that it goes on, if known.
    """
    problems = []
    for number, entry in enumerate(head["layers"]):
        where = f"layer {number}"
        if plain_class(entry["class"]) is None:
            problems.append(f"{where}: {entry['class']!r} is not allowed")
        if not is_plain(list(entry["config"].values())):
            problems.append(f"{where}: its config is not plain")
        problems += [
            f"{where}: its config has {key!r}, which no head needs"
            for key in entry["config"]
            if key.endswith(LEFT_OUT)
        ]
    own = {k: s for k, s in shapes.items() if k.startswith(HEAD + "/")}
    return problems or head_problems(head, own, base)


def rebuild_head(
    head: dict[str, Any] | None,
    path: str,
    tensors: dict[str, Any],
    base: Sequence[int | None] | None = None,
) -> Any:
    """Builds a head as it stands in the file at `path`, with its weights.

    The shape of the base's output, where it is known, says what the head may
    cost; else the head's own first input shape does.
    """
    what = f"The head of {path} was not built"
    if head is None:
        raise ValueError(f"{what}: the file holds no head that can be rebuilt")
    shapes = {key: value.shape for key, value in tensors.items()}
    raise_if(what, wrong_head(head, shapes, base))
    layers = []
    where = ""
    try:
        for number, entry in enumerate(head["layers"]):
            where = f"layer {number} ({entry['class']}): "
            layers.append(build_layer(entry, number, tensors))
        where = ""
        built = keras.Sequential(layers)
        if head["layers"] and head["layers"][0]["input_shape"]:
            built.build((None, *head["layers"][0]["input_shape"][1:]))
    except Exception as error:  # whatever Keras makes of a forged config
        message = printable(f"{where}{error}")[:LONGEST]
        raise ValueError(f"{what}: {message}") from error
    return built


def build_layer(
    entry: dict[str, Any], number: int, tensors: dict[str, Any]
) -> Layer:
    """Builds one layer of a head and loads it."""
    layer = plain_class(entry["class"])(**entry["config"])
    prefix = join(HEAD, str(number)) + "/"
    values = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    if entry["input_shape"] is not None:
        build_as(layer, (None, *entry["input_shape"][1:]), values)
    own = own_variables(layer)
    problems = differing(own, values)
    if problems:
        raise ValueError("; ".join(problems))
    for name, variable in own.items():
        variable.assign(values[name])
    return layer


def build_as(
    layer: Layer, input_shape: tuple[Any, ...], values: dict[str, np.ndarray]
) -> None:
    """Builds a layer that makes weights of the shapes of `values` only.

    A size that a config claims is thus never allocated.
    """

    def add_weight(
        before: Any, shape: Any = None, *args: Any, **options: Any
    ) -> Any:
        name = options.get("name")
        found = values[name].shape if name in values else None
        if found != tuple(shape or ()):
            raise ValueError(f"{name!r}: config says {shape}, weights {found}")
        return before(shape, *args, **options)

    restore = surgery.patched(layer, "add_weight", add_weight)
    try:
        layer.build(input_shape)
    finally:
        restore()
