"""Operations that a head may hold besides layers, each as a plain layer.

Heads of KerasHub's classifiers take the first token by `x[:, 0]`, or a mean.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_lora.model.surgery import Layer
from keras_lora.settings import is_int

ELLIPSIS = "..."
MOST_AXES = 8


class GetItem(keras.layers.Layer):
    """A part of a tensor, as `x[:, 0]` gives it.

    Args:
        key: An item an axis: an int, a list of start, stop and step (ints or
            None), None for a new axis or "..." for those that are not named.
            The first is a list of three None, as rows stay what they are.
    """

    def __init__(self, key: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.key = list(key)
        if not is_key(self.key):
            raise ValueError(f"No key of a tensor's rows: {self.key}"[:200])

    def call(self, x: Any) -> Any:
        return x[tuple(map(from_plain, self.key))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "key": self.key}


class Mean(keras.layers.Layer):
    """A mean over axes, as `keras.ops.mean` gives it.

    Args:
        axis: Ints, the axes; the first one, of rows, is not among them.
        keepdims: Whether they are kept, with a size of 1.
    """

    def __init__(
        self, axis: Sequence[int], keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.axis, self.keepdims = list(axis), bool(keepdims)
        if not self.axis or not all(is_int(n) and n for n in self.axis):
            raise ValueError(f"No axes of a row: {self.axis}"[:200])

    def call(self, x: Any) -> Any:
        return ops.mean(x, axis=self.axis, keepdims=self.keepdims)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "axis": self.axis, "keepdims": self.keepdims}


OPERATIONS = {"GetItem": GetItem, "Mean": Mean}
"""By the names that Keras and files have for them."""


def as_layer(operation: Any, args: Sequence[Any], shape: Any) -> Layer | None:
    """The layer that does what an operation of a graph does, or None.

    Args:
        operation: The operation.
        args: What it was called with.
        shape: Of the tensor that it was called on.
    """
    kind = type(operation).__name__
    try:
        if kind == "GetItem":
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            layer: Layer = GetItem(list(map(to_plain, key)), name="get_item")
        elif kind == "Mean":
            axis, keepdims = operation.axis, operation.keepdims
            layer = Mean([int(n) for n in axis], keepdims, name="mean")
        else:
            return None
    except (TypeError, ValueError):
        return None
    layer.build(shape)
    return layer


def to_plain(item: Any) -> Any:
    """An item of a key as a file has it."""
    if isinstance(item, slice):
        numbers = (item.start, item.stop, item.step)
        return [n if n is None else int(n) for n in numbers]
    if is_int(item):
        return int(item)
    return ELLIPSIS if item is Ellipsis else item


def from_plain(item: Any) -> Any:
    """An item of a key from what a file has."""
    if isinstance(item, list | tuple):
        return slice(*item)
    return Ellipsis if isinstance(item, str) else item


def is_key(key: list[Any]) -> bool:
    """Whether a list is a key that leaves rows what they are."""
    return (
        0 < len(key) <= MOST_AXES
        and key[0] == [None, None, None]
        and all(map(is_item, key))
    )


def is_item(item: Any) -> bool:
    """Whether a value is an item of a key as a file has it."""
    if isinstance(item, list):
        return len(item) == 3 and all(n is None or is_int(n) for n in item)
    if isinstance(item, str):
        return item == ELLIPSIS
    return item is None or is_int(item)
