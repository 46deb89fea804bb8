"""Structural paths: names for layers that hold in every process."""

import re
from typing import Any

import keras

from keras_lora.model.surgery import (
    Layer,
    children,
    takes_raw_inputs,
    tracked_variables,
)

Layers = dict[str, Layer]
"""A model's layers by structural path."""


def snake_case(name: str) -> str:
    """The stem of the names Keras gives by itself, e.g. `"lo_ra_dense"`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def sibling_names(layers: list[Layer], parent: Layer = None) -> list[str]:
    """Names for layers that stand side by side, in their order.

    A name that Keras gave by itself counts how many layers were made before
    it; it is replaced by the layer's number among its siblings.
    """
    # Its two layers are named after the one it was given.
    pair = isinstance(parent, keras.layers.Bidirectional)
    lead = "((?:forward|backward)_)" if pair else "()"
    stems = []
    for layer in layers:
        stem = snake_case(type(layer).__name__)
        own = re.fullmatch(rf"{lead}{re.escape(stem)}(_\d+)?", layer.name)
        name = own[1] + stem if own else layer.name
        stems.append((name, own is not None))
    taken = {stem for stem, automatic in stems if not automatic}
    given: set[str] = set()
    names = []
    for stem, automatic in stems:
        name, number = stem, 0
        while name in given or (automatic or number) and name in taken:
            number += 1
            name = f"{stem}_{number}"
        given.add(name)
        names.append(name)
    return names


def structural_paths(root: Layer) -> dict[str, Layer]:
    """Every layer at or below `root` by its structural path.

    The root's own path is the empty string. A layer that stands in two places
    is listed once, in the first of them. What makes the inputs of a model,
    such as a KerasHub task's preprocessor, is not listed: the model is the
    same one without it.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()

    def visit(layer: Layer, path: str) -> None:
        seen.add(id(layer))
        found[path] = layer
        below = [la for la in children(layer) if not makes_inputs(la)]
        names = sibling_names(below, layer)
        for name, sublayer in zip(names, below, strict=True):
            if id(sublayer) not in seen:
                visit(sublayer, join(path, name))

    visit(root, "")
    return found


def makes_inputs(layer: Layer) -> bool:
    """Whether a layer turns texts and the like into a model's inputs."""
    is_model = isinstance(layer, keras.Model)
    return takes_raw_inputs(layer) and not is_model and not layer.weights


def join(*parts: str) -> str:
    """Joins the parts of a path; the root's own is empty."""
    return "/".join(part for part in parts if part)


def owner(key: str) -> str:
    """The path of the layer that a key `<layer path>/<weight>` belongs to."""
    return key.rpartition("/")[0]


def own_variables(layer: Layer) -> dict[str, Any]:
    """The variables a layer owns itself, by name, adapter weights left out.

    Equal names within a layer are numbered in order.
    """
    extra = {id(v) for v in getattr(layer, "adapter_weights", {}).values()}
    found: dict[str, Any] = {}
    for variable in tracked_variables(layer):
        if id(variable) in extra:
            continue
        name, number = variable.name, 0
        while name in found:
            number += 1
            name = f"{variable.name}_{number}"
        found[name] = variable
    return found
