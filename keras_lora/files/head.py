"""A task's head: found on top of the base."""

from dataclasses import dataclass
from typing import Any

import keras

from keras_lora.files.head_config import layer_config, wrong_head
from keras_lora.files.head_ops import as_layer
from keras_lora.files.record import HEAD, MOST_HEAD_LAYERS
from keras_lora.model import graphs
from keras_lora.model.paths import (
    join,
    own_variables,
    sibling_names,
    structural_paths,
)
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.adapted import Adapted


@dataclass(frozen=True)
class Head:
    """A chain of layers on one output of a base."""

    input: int
    layers: tuple[Layer, ...]

    @property
    def classes(self) -> list[str]:
        """Names of its layers' classes."""
        return [type(layer).__name__ for layer in self.layers]

    def config(self) -> dict[str, Any] | None:
        """As it stands in a file, or None where no reader would build it."""
        names = sibling_names(list(self.layers))
        configs = [
            layer_config(layer, name)
            for layer, name in zip(self.layers, names, strict=True)
        ]
        if None in configs or len(configs) > MOST_HEAD_LAYERS:
            return None
        head = {"input": self.input, "layers": configs}
        shapes = {k: tuple(v.shape) for k, v in self.variables().items()}
        return None if wrong_head(head, shapes) else head

    def variables(self) -> dict[str, Any]:
        """Its variables, by their key in a file."""
        return {
            join(HEAD, str(number), name): variable
            for number, layer in enumerate(self.layers)
            for name, variable in own_variables(layer).items()
        }


def find_head(adapted: Adapted) -> Head | None:
    """The chain of layers from an output of the base to the model's output."""
    model, root = adapted.model, adapted.root
    if root is model:
        return None
    if type(model) is keras.Sequential and root is not None:
        first, *rest = model.layers
        return Head(0, tuple(expanded(rest))) if first is root else None
    if not graphs.has_graph(model) or len(model.outputs) != 1:
        return None
    made_by = {}
    if root is None and adapted:
        for number, (path, index) in enumerate(adapted.base.outputs or ()):
            if path in adapted.layers:
                made_by[id(adapted.layers[path]), index] = number
    chain: list[Layer] = []
    tensor = model.outputs[0]
    while True:
        operation, index, inputs = graphs.graph_source(tensor)
        known = made_by.get((id(operation), index))
        output = index if operation is root else known
        if output is not None:
            return Head(output, tuple(expanded(reversed(chain))))
        if len(inputs) != 1:
            return None
        layer = operation
        if not isinstance(operation, keras.layers.Layer):
            arguments = graphs.graph_arguments(tensor)
            layer = as_layer(operation, arguments, inputs[0].shape)
        if layer is None:
            return None
        chain.append(layer)
        tensor = inputs[0]


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
        raise ValueError(
            f"head={name!r} names {len(found)} layers. "
            f"Available: {', '.join(filter(None, paths))}"
        )
    return Head(0, tuple(expanded([found[0]])))
