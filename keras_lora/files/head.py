"""A task's head: found on top of the base."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.files.head_config import layer_config
from keras_lora.files.record import HEAD, MOST_HEAD_LAYERS
from keras_lora.model import surgery
from keras_lora.model.paths import (
    join,
    own_variables,
    sibling_names,
    structural_paths,
)
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.member import Base, member_of, members, membership


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
        if None in configs or len(configs) > MOST_HEAD_LAYERS:
            return None
        return {"input": self.input, "layers": configs}

    def variables(self) -> dict[str, Any]:
        """Its variables, by their key in a file."""
        return {
            join(HEAD, str(number), name): variable
            for number, layer in enumerate(self.layers)
            for name, variable in own_variables(layer).items()
        }


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
