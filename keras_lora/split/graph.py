"""A model's graph as one: the graphs of models nested in it written out."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_lora.model import graphs
from keras_lora.model.surgery import Layer
from keras_lora.split.beside import Apart, stage_apart

Tensor = Any
Call = Any
"""One call of an operation in a graph: Keras's `Node`."""


def written_out(model: Layer, apart: Apart = stage_apart) -> Any:
    """The model's outputs, computed anew from its own symbolic inputs.

    Every operation is called again, those in nested models by themselves: a
    cut may go through a nested model, and only so do symbolic tensors tell
    which Keras masks come to them.
    """
    inputs = keras.tree.flatten(graphs.graph_inputs(model))
    return run(model, inputs, None, apart)


def run(
    model: Layer, inputs: list[Tensor], training: bool | None, apart: Apart
) -> Any:
    """Calls what a model calls, on other symbolic inputs."""
    known = {
        id(own): fitted(given, own)
        for own, given in zip(
            keras.tree.flatten(graphs.graph_inputs(model)), inputs, strict=True
        )
    }
    for call in graphs.graph_operations(model):
        if not call.is_input:
            again(call, known, training, apart)
    return keras.tree.map_structure(
        lambda tensor: known[id(tensor)], graphs.graph_outputs(model)
    )


def again(
    call: Call,
    known: dict[int, Tensor],
    training: bool | None = None,
    apart: Apart = stage_apart,
) -> None:
    """Makes a call on what stands for its inputs, and notes its outputs."""
    args, kwargs = call.arguments.fill_in(known)
    operation, kwargs = call.operation, dict(kwargs)
    if training is not None and takes_training(operation):
        kwargs["training"] = training
    inner = inputs_of(operation, args, kwargs)
    outputs = apart(operation, args, kwargs)
    if outputs is not None:
        pass
    elif inner is None:
        outputs = operation(*args, **kwargs)
    else:
        outputs = run(operation, inner, kwargs.get("training"), apart)
    for old, new in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
        known[id(old)] = new


def takes_training(operation: Any) -> bool:
    """Whether an operation is told that a model trains."""
    return "training" in getattr(operation, "_call_context_args", ())


def inputs_of(
    operation: Any, args: Any, kwargs: dict[str, Any]
) -> list[Tensor] | None:
    """What a nested model with a graph is given; None for all else."""
    if not isinstance(operation, keras.Model):
        return None
    if not graphs.runs_its_graph(operation):
        return None
    given = args[0] if args else kwargs.get("inputs")
    own = graphs.graph_inputs(operation)
    if isinstance(given, dict):
        names = own if isinstance(own, dict) else named(own)
        if not all(name in given for name in names):
            return None
        given = {name: given[name] for name in names}
        if not isinstance(own, dict):
            given = list(given.values())
    found = keras.tree.flatten(given)
    fits = len(found) == len(keras.tree.flatten(own))
    if not fits or not all(isinstance(t, keras.KerasTensor) for t in found):
        return None
    return found


def named(inputs: Any) -> list[str]:
    """The names of a model's inputs."""
    return [tensor.name for tensor in keras.tree.flatten(inputs)]


def fitted(given: Tensor, own: Tensor) -> Tensor:
    """What a model makes of an input: its own dtype and number of axes."""
    found = given
    if found.dtype != own.dtype:
        found = ops.cast(found, own.dtype)
    if len(found.shape) == len(own.shape) + 1:
        found = ops.squeeze(found, axis=-1)
    elif len(found.shape) == len(own.shape) - 1:
        found = ops.expand_dims(found, axis=-1)
    return found if found is given else graphs.keep_mask(given, found)


def maker(tensor: Tensor) -> Call:
    """The call that made a symbolic tensor."""
    return graphs.graph_node(tensor)


def needs(call: Call) -> list[Tensor]:
    """What a call reads: its inputs, and the masks on them."""
    return with_masks(call.input_tensors)


def with_masks(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors, each once, with the masks on them."""
    found: dict[int, Tensor] = {}
    for tensor in tensors:
        mask = graphs.mask_of(tensor)
        for each in (tensor,) if mask is None else (tensor, mask):
            found.setdefault(id(each), each)
    return list(found.values())


def calls_to(tensors: Iterable[Tensor]) -> list[Call]:
    """All calls that lead to some tensors, each after those it needs."""
    found: dict[int, Call] = {}
    waiting = [(maker(t), False) for t in reversed(with_masks(tensors))]
    while waiting:
        call, ready = waiting.pop()
        if id(call) in found:
            continue
        if ready:
            found[id(call)] = call
            continue
        waiting.append((call, True))
        waiting += [(maker(t), False) for t in reversed(needs(call))]
    return list(found.values())
