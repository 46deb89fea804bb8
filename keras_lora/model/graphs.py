"""Symbolic graphs, and what goes beside a tensor, in Keras's private parts.

As `surgery`, which has what is done to layers; no other file touches them.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common.tensor_attributes import (
    get_tensor_attr,
    set_tensor_attr,
)
from keras.src.models.functional import Functional

from keras_lora.model.surgery import Layer

SIDE = "keras_lora_side"
"""Where a tensor has what goes beside it."""


def keep_mask(source: Any, target: Any) -> Any:
    """Carries a Keras mask from one tensor to another; returns the other."""
    put_mask(target, get_keras_mask(source))
    return target


def put_mask(tensor: Any, mask: Any) -> None:
    """Puts a Keras mask, if any, on a tensor that has none."""
    if mask is not None and get_keras_mask(tensor) is None:
        set_keras_mask(tensor, mask)


def without_mask(tensor: Any) -> Any:
    """The same tensor; its Keras mask, if any, is taken off."""
    set_keras_mask(tensor, None)
    return tensor


def build_inputs(layer: Layer) -> list[Any]:
    """Symbolic inputs of the shapes that a layer was built with."""
    if has_graph(layer):
        return [graph_inputs(layer)]
    shapes = layer._build_shapes_dict or {}
    return [
        untracked(
            keras.tree.map_shape_structure(
                lambda shape: keras.KerasTensor(
                    shape, dtype=layer.compute_dtype
                ),
                shape,
            )
        )
        for shape in shapes.values()
        if shape is not None
    ]


def untracked(structure: Any) -> Any:
    """A nest in plain dicts and lists: jax knows no tracked ones of Keras."""
    if isinstance(structure, dict):
        return {key: untracked(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        kind = list if isinstance(structure, list) else tuple
        return kind(map(untracked, structure))
    return structure


def symbolic_calls(layer: Layer) -> list[tuple[Any, dict[str, Any]]]:
    """The arguments of each call of a layer, as far as Keras remembers them.

    A layer that needs no `build` keeps no shapes; the graph it is in does.
    """
    found = [] if has_graph(layer) else graph_calls(layer)
    return found or [(build_inputs(layer), {})]


def graph_calls(layer: Layer) -> list[tuple[Any, dict[str, Any]]]:
    """The arguments of each call of a layer in the graphs around it."""
    calls = [node.arguments for node in layer._inbound_nodes]
    return [(call.args, call.kwargs) for call in calls]


def graph_source(tensor: Any) -> tuple[Any, int, list[Any]]:
    """What made a symbolic tensor: operation, which output, input tensors."""
    history = tensor._keras_history
    node = graph_node(tensor)
    return history.operation, history.tensor_index, list(node.input_tensors)


def in_graph(tensor: Any) -> bool:
    """Whether a symbolic tensor knows what made it."""
    return hasattr(tensor, "_keras_history")


def graph_node(tensor: Any) -> Any:
    """The call of an operation that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def graph_arguments(tensor: Any) -> tuple[Any, ...]:
    """What the operation that made a symbolic tensor was called with."""
    return tuple(graph_node(tensor).arguments.args)


def graph_operations(model: Layer) -> list[Any]:
    """What a model with a graph runs: its calls, in an order that works."""
    graph = model._functional if is_sequential(model) else model
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth]]


def graph_outputs(model: Layer) -> Any:
    """A model's symbolic outputs in the structure that it gives."""
    graph = model._functional if is_sequential(model) else model
    return graph._outputs_struct


def is_sequential(model: Layer) -> bool:
    """Whether a model is a `Sequential`."""
    return isinstance(model, keras.Sequential)


def runs_its_graph(model: Layer) -> bool:
    """Whether a call of a model is a run through its graph and no more.

    A class may have a graph and a `call` of its own.
    """
    calls = (Functional.call, keras.Sequential.call)
    return has_graph(model) and type(model).call in calls


def side_of(tensor: Any) -> Any:
    """What goes beside a tensor, as Keras's masks do; None if nothing does."""
    return get_tensor_attr(tensor, SIDE)


def put_side(tensor: Any, value: Any) -> None:
    """Lets something go beside a tensor from one layer to the next.

    An argument of the layers between would break graphs and KerasHub's
    blocks, and state of a layer would leak into other calls.
    """
    set_tensor_attr(tensor, SIDE, value)


def mask_of(tensor: Any) -> Any:
    """The Keras mask on a tensor, or None."""
    return get_keras_mask(tensor)


@contextlib.contextmanager
def named_apart(operations: Iterable[Any]) -> Iterator[bool]:
    """Gives operations of equal names different ones for the while.

    A graph refuses equal names; two models that become one may have them.
    Tells whether there were any.
    """
    own, taken = [], set()
    for operation in {id(each): each for each in operations}.values():
        name, number = operation.name, 0
        while name in taken:
            number += 1
            name = f"{operation.name}_{number}"
        taken.add(name)
        if name != operation.name:
            own.append((operation, operation.name))
            operation.name = name
    try:
        yield bool(own)
    finally:
        for operation, name in own:
            operation.name = name


def has_graph(model: Layer) -> bool:
    """Whether a model knows the symbolic tensors between its layers."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, Functional)


def output_shape(model: Layer | None, number: int) -> Any:
    """The shape of an output of a model, or None where it is not known."""
    if model is None or not has_graph(model):
        return None
    outputs = model.outputs[number : number + 1]
    return outputs[0].shape if outputs else None


def graph_inputs(model: Layer) -> Any:
    """A model's symbolic inputs in the structure that it takes."""
    if isinstance(model, keras.Sequential):
        return model._functional._inputs_struct
    return model._inputs_struct
