"""Where a graph is cut: what is computed once, and what crosses."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_lora.model import graphs, surgery
from keras_lora.model.fingerprint import itemsize
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.membership import membership
from keras_lora.split.graph import Call, Tensor, calls_to, maker, with_masks

OPEN = 128
"""Taken for the size of an axis that a graph leaves open."""
ROWS = 7
"""Rows of a batch by which a tensor's first axis is told to be that one."""
LIBRARIES = ("keras", "keras_hub", "keras_lora")


class Cut:
    """A graph in two parts.

    Args:
        outputs: Of the graph, flat.
        begins: Whether an operation belongs to the later part by itself: it
            trains, say.

    Attributes:
        calls: All calls, each after those it needs.
        first: Those that begin it and need nothing of it.
        later: Ids of the calls that training has to repeat.
        light: Ids of those with no weights, to which none with weights lead.
    """

    def __init__(
        self, outputs: list[Tensor], begins: Callable[[Any], bool]
    ) -> None:
        self.outputs = outputs
        self.calls = calls_to(outputs)
        self.first: list[Call] = []
        self.later: set[int] = set()
        self.light: set[int] = set()
        for call in self.calls:
            follows = any(self.is_later(t) for t in call.input_tensors)
            if not follows and begins(call.operation):
                self.first.append(call)
                follows = True
            if follows:
                self.later.add(id(call))
            before = {id(maker(t)) for t in call.input_tensors}
            if before <= self.light and not has_weights(call):
                self.light.add(id(call))

    def is_later(self, tensor: Tensor) -> bool:
        """Whether training has to compute a tensor again."""
        return id(maker(tensor)) in self.later

    @property
    def earlier(self) -> list[Call]:
        """The calls that training need not repeat."""
        return [call for call in self.calls if id(call) not in self.later]

    @property
    def crossing(self) -> list[Tensor]:
        """What training needs of the frozen part, each tensor once."""
        read = [
            tensor
            for call in self.calls
            if id(call) in self.later
            for tensor in call.input_tensors
        ]
        found = [t for t in [*read, *self.outputs] if not self.is_later(t)]
        return [t for t in with_masks(found) if not self.is_later(t)]

    def lighten(self) -> None:
        """Moves the cut ahead where less crosses there.

        A cast, a broadcast mask and the like are done again from what they
        were made of. So is dropout that stands at the cut, and what is made
        of the inputs alone with no weights.
        """
        while any(self.moved(tensor) for tensor in self.crossing):
            pass

    def moved(self, tensor: Tensor) -> bool:
        """Moves the call that made a tensor to the later part, if it pays."""
        call = maker(tensor)
        if call.is_input or has_weights(call):
            return False
        crossing = {id(t): t for t in self.crossing}
        saved = sum(size(t) for t in call.outputs if id(t) in crossing)
        added = sum(
            size(t)
            for t in with_masks(call.input_tensors)
            if id(t) not in crossing
        )
        level = surgery.is_random(call.operation) or id(call) in self.light
        if added < saved or (added == saved and level):
            self.later.add(id(call))
            return True
        return False

    def bring(self, tensors: list[Tensor]) -> bool:
        """Has training compute tensors again; tells whether that can be."""
        makers = [maker(tensor) for tensor in tensors]
        self.later.update(id(call) for call in makers if not call.is_input)
        return not any(call.is_input for call in makers)


def has_weights(call: Call) -> bool:
    """Whether what is called has weights."""
    return bool(getattr(call.operation, "weights", None))


def trained_by(variables: list[Any]) -> Callable[[Any], bool]:
    """Tells whether `fit` changes anything of an operation.

    Args:
        variables: Those that train.
    """
    training = {id(variable) for variable in variables}
    return lambda operation: trains(operation, training)


def trains(operation: Any, training: set[int]) -> bool:
    """Whether `fit` changes anything of an operation."""
    if not isinstance(operation, keras.Layer):
        return False
    if any(id(variable) in training for variable in operation.variables):
        return True
    return any(map(keeps_statistics, surgery.every_layer(operation)))


def keeps_statistics(layer: Layer) -> bool:
    """Whether a layer changes weights that no gradient reaches.

    Nobody knows of a layer of the user's own what its `call` does with such
    weights, unless it is frozen.
    """
    if isinstance(layer, keras.layers.SpectralNormalization):
        return True
    if not layer.trainable:
        return False
    if isinstance(layer, keras.layers.BatchNormalization):
        return True
    if type(layer).__module__.split(".")[0] in LIBRARIES:
        return False
    own = surgery.tracked_variables(layer)
    return membership(layer) is None and any(not v.trainable for v in own)


def size(tensor: Tensor) -> int:
    """Bytes of a row of a symbolic tensor, open axes taken for long ones."""
    axes = [OPEN if n is None else n for n in tensor.shape[1:]]
    return math.prod(axes) * itemsize(str(tensor.dtype))


def without_rows(frozen: Layer, tensors: list[Tensor]) -> list[Tensor]:
    """Those outputs of a model whose first axis is not the batch's."""
    inputs = keras.tree.map_structure(
        lambda t: keras.KerasTensor(
            (t.shape[0] or ROWS, *t.shape[1:]), dtype=t.dtype, sparse=t.sparse
        ),
        graphs.untracked(graphs.graph_inputs(frozen)),
    )
    counts = {t.shape[0] for t in keras.tree.flatten(inputs)}
    try:
        found = keras.tree.flatten(frozen.compute_output_spec(inputs))
    except Exception:  # it needs another batch; then nobody can tell
        return []
    shapes = [tuple(spec.shape) for spec in found]
    return [
        tensor
        for tensor, shape in zip(tensors, shapes, strict=True)
        if not shape or shape[0] not in (*counts, None)
    ]
