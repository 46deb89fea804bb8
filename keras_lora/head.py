"""A task's head: found on top of the base, stored, and built again."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora import surgery
from keras_lora.adapter_file import AdapterInfo
from keras_lora.member import Base, member_of, members, membership
from keras_lora.paths import (
    join,
    own_variables,
    sibling_names,
    structural_paths,
)
from keras_lora.problems import refuse
from keras_lora.record import HEAD
from keras_lora.surgery import Layer

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
"""Layers that a file may name; none runs anything that a config holds."""
LEFT_OUT = ("initializer", "regularizer", "constraint")
"""What a config says for training only: weights come from the file."""


@dataclass(frozen=True)
class Head:
    """A chain of layers on one output of a base."""

    input: int
    layers: tuple[Layer, ...]

    def config(self) -> dict[str, Any] | None:
        """As it stands in a file, or None where a layer is not plain."""
        names = sibling_names(list(self.layers))
        configs = [
            layer_config(layer, name)
            for layer, name in zip(self.layers, names, strict=True)
        ]
        if any(config is None for config in configs):
            return None
        return {"input": self.input, "layers": configs}

    def variables(self) -> dict[str, Any]:
        """Its variables, by their key in a file."""
        return {
            join(HEAD, str(number), name): variable
            for number, layer in enumerate(self.layers)
            for name, variable in own_variables(layer).items()
        }


def layer_config(layer: Layer, called: str) -> dict[str, Any] | None:
    """A plain layer's class, config and input shape, or None."""
    name = type(layer).__name__
    if type(layer) is not plain_class(name) or not layer.built:
        return None
    config = {}
    for key, value in layer.get_config().items():
        if key == "dtype":
            value = layer.dtype_policy.name
        if key == "name":
            value = called
        if key.endswith(LEFT_OUT) or key == "quantization_config":
            continue
        if not is_plain(value):
            return None
        config[key] = value
    shape = surgery.build_shape(layer)
    if shape is None and own_variables(layer):
        return None
    return {"class": name, "config": config, "input_shape": shape}


def plain_class(name: str) -> Any:
    """The Keras layer of an allowed name."""
    if name not in PLAIN_LAYERS:
        return None
    return getattr(keras.layers, name, None)


def is_plain(value: Any) -> bool:
    """Whether a config's value is numbers, strings and lists of them."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def rebuild_head(info: AdapterInfo, tensors: dict[str, Any]) -> Any:
    """Builds a file's head, with its weights.

    Layers are made by name from an allow-list; nothing is imported, and
    configs hold plain values only.
    """
    what = f"The head of {info.path} was not built"
    if info.head is None:
        missing = "the file holds no head that can be rebuilt"
        raise ValueError(f"{what}: {missing}")
    problems = []
    for number, entry in enumerate(info.head["layers"]):
        if plain_class(entry["class"]) is None:
            problems.append(
                f"layer {number}: {entry['class']!r} is not allowed"
            )
        if not all(is_plain(v) for v in entry["config"].values()):
            problems.append(f"layer {number}: its config is not plain")
    refuse(what, problems)
    try:
        layers = [
            build_layer(entry, number, tensors)
            for number, entry in enumerate(info.head["layers"])
        ]
    except (TypeError, ValueError, ArithmeticError, KeyError) as error:
        raise ValueError(f"{what}: {error}") from error
    return keras.Sequential(layers)


def build_layer(
    entry: dict[str, Any], number: int, tensors: dict[str, Any]
) -> Layer:
    """Builds one layer of a head and loads it."""
    cls = plain_class(entry["class"])
    assert cls is not None
    layer = cls(**entry["config"])
    prefix = join(HEAD, str(number)) + "/"
    values = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    largest = max((max(v.shape, default=1) for v in values.values()), default=1)
    sizes = [v for v in entry["config"].values() if isinstance(v, int)]
    if values and max(sizes, default=0) > 4 * largest:
        raise ValueError(f"layer {number}: its config and weights differ")
    if entry["input_shape"] is not None:
        layer.build(tuple(entry["input_shape"]))
    own = own_variables(layer)
    problems = differing(own, values)
    if problems:
        raise ValueError(f"layer {number}: {'; '.join(problems)}")
    for name, variable in own.items():
        variable.assign(values[name])
    return layer


def differing(
    variables: dict[str, Any], values: dict[str, np.ndarray]
) -> list[str]:
    """Says which values are missing, unexpected or of another shape."""
    problems = [f"no {name!r}" for name in variables if name not in values]
    for name, value in values.items():
        if name not in variables:
            problems.append(f"unexpected {name!r}")
        elif tuple(variables[name].shape) != value.shape:
            shape = tuple(variables[name].shape)
            problems.append(f"{name!r}: shape {value.shape}, expected {shape}")
    return problems


def find_root(model: Layer) -> Layer | None:
    """The base within an adapted model, unless it was flattened into it."""
    by_path = members(model)
    if "" in by_path:
        return by_path[""]
    for candidate in surgery.every_layer(model):
        paths = structural_paths(candidate)
        if all(paths.get(path) is layer for path, layer in by_path.items()):
            extra = any(
                membership(layer) is None and own_variables(layer)
                for layer in paths.values()
            )
            return None if extra else candidate
    return None


def find_head(model: Layer, root: Layer | None) -> Head | None:
    """The chain of layers from an output of the base to the model's output."""
    if root is model:
        return None
    if type(model) is keras.Sequential and root is not None:
        layers = [
            layer
            for layer in model.layers
            if not isinstance(layer, keras.layers.InputLayer)
        ]
        if layers and layers[0] is root:
            return Head(0, tuple(expanded(layers[1:])))
        return None
    if not surgery.has_graph(model) or len(model.outputs) != 1:
        return None
    by_path = members(model)
    ends = {id(root): None} if root is not None else {}
    made_by = {}
    if root is None and by_path:
        outputs = base_of(by_path).outputs or ()
        for number, (path, index) in enumerate(outputs):
            if path in by_path:
                made_by[id(by_path[path]), index] = number
    chain: list[Layer] = []
    tensor = model.outputs[0]
    while True:
        operation, index, inputs = surgery.graph_source(tensor)
        if id(operation) in ends:
            return Head(index, tuple(expanded(reversed(chain))))
        if (id(operation), index) in made_by:
            number = made_by[id(operation), index]
            return Head(number, tuple(expanded(reversed(chain))))
        if not isinstance(operation, keras.layers.Layer) or len(inputs) != 1:
            return None
        chain.append(operation)
        tensor = inputs[0]


def base_of(by_path: dict[str, Layer]) -> Base:
    """The base that some members share."""
    return member_of(next(iter(by_path.values()))).base


def expanded(layers: Any) -> list[Layer]:
    """Layers with each plain `Sequential` replaced by its own."""
    found: list[Layer] = []
    for layer in layers:
        if type(layer) is keras.Sequential:
            found += expanded(layer.layers)
        elif not isinstance(layer, keras.layers.InputLayer):
            found.append(layer)
    return found


def named_head(model: Layer, name: str) -> Head:
    """The head that a caller names: one layer, or a `Sequential`."""
    paths = structural_paths(model)
    found = [
        layer
        for path, layer in paths.items()
        if path == name or path.endswith("/" + name) or layer.name == name
    ]
    if len(found) != 1:
        outside = [path for path in paths if path]
        raise ValueError(
            f"head={name!r} names {len(found)} layers. "
            f"Available: {', '.join(outside)}"
        )
    return Head(0, tuple(expanded([found[0]])))


def to_numpy(variable: Any) -> np.ndarray:
    """A variable's values on the host."""
    value: np.ndarray = ops.convert_to_numpy(ops.convert_to_tensor(variable))
    return value
