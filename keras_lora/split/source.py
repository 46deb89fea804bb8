"""What is computed once, as batches: arrays, a pipeline or a dataset."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.errors import raise_if

ACTION = "precompute: nothing was computed"
ENDLESS = -1
"""What `cardinality` says of a dataset that repeats for ever."""
Batch = tuple[Any, Any, Any]
"""Inputs, labels and sample weights; None for what there is not."""


class Source:
    """Batches that can be gone through more than once.

    Args:
        x: Arrays of one length in any structure, a `tf.data.Dataset` or a
            `PyDataset`.
        y: Labels beside arrays, or None.
        sample_weight: Weights beside those, or None.
        batch_size: Rows of a batch cut from arrays.
    """

    def __init__(
        self, x: Any, y: Any, sample_weight: Any, batch_size: int
    ) -> None:
        self.x, self.y, self.weights = x, y, sample_weight
        self.batch_size = batch_size
        self.is_dataset = isinstance(x, keras.utils.PyDataset)
        self.is_pipeline = hasattr(x, "element_spec")
        raise_if(ACTION, self._problems())

    def _problems(self) -> list[str]:
        if self.is_pipeline and int(self.x.cardinality()) == ENDLESS:
            return [
                "the dataset repeats for ever: leave `repeat()` out, or `take` "
                "some batches"
            ]
        if self.is_dataset or self.is_pipeline:
            if self.y is None and self.weights is None:
                return []
            return ["`y` and `sample_weight` come with the batches of `x`"]
        if self.weights is not None and self.y is None:
            return ["`sample_weight` needs `y`"]
        leaves = keras.tree.flatten(self._arrays)
        if not leaves or not all(getattr(leaf, "shape", ()) for leaf in leaves):
            return [
                "`x` must be arrays in any structure, a `tf.data.Dataset` or a "
                "`keras.utils.PyDataset`, and labels arrays. Received: "
                f"x of {type(self.x).__name__}"
            ]
        counts = sorted({int(leaf.shape[0]) for leaf in leaves})
        if len(counts) > 1:
            return [f"the arrays have different lengths: {counts}"]
        return [] if counts[0] else ["the arrays have no rows"]

    @property
    def _arrays(self) -> tuple[Any, ...]:
        found = (self.x, self.y, self.weights)
        return tuple(part for part in found if part is not None)

    def __len__(self) -> int:
        """How many batches there are; 0 where it is not known."""
        if self.is_dataset:
            return int(self.x.num_batches or 0)
        if self.is_pipeline:
            return max(0, int(self.x.cardinality()))
        rows = keras.tree.flatten(self.x)[0].shape[0]
        return math.ceil(rows / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.is_pipeline:
            parts: Any = iter(self.x)
        elif self.is_dataset:
            parts = (self.x[n] for n in range(len(self)))
        else:
            parts = map(self._cut, range(len(self)))
        foreign = self.is_pipeline and keras.backend.backend() != "tensorflow"
        for part in parts:
            if foreign:
                part = keras.tree.map_structure(to_array, part)
            yield keras.utils.unpack_x_y_sample_weight(part)

    def _cut(self, number: int) -> tuple[Any, ...]:
        start = number * self.batch_size
        rows = slice(start, start + self.batch_size)
        return keras.tree.map_structure(lambda leaf: leaf[rows], self._arrays)


class Hashes:
    """A digest of what came in batches, the same however it was cut."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._shapes: list[str] = []

    def update(self, structure: Any) -> None:
        """Takes a batch in."""
        leaves = [] if structure is None else keras.tree.flatten(structure)
        for number, leaf in enumerate(leaves):
            if number == len(self._leaves):
                self._leaves.append(hashlib.blake2b(digest_size=16))
                self._shapes.append("")
            value = np.ascontiguousarray(to_array(leaf))
            shape = f"{value.dtype}{value.shape[1:]}"
            if shape != self._shapes[number]:
                self._leaves[number].update(shape.encode())
                self._shapes[number] = shape
            data = value.tobytes()
            if value.dtype.kind == "O":  # texts
                data = repr(value.tolist()).encode()
            self._leaves[number].update(data)

    def hexdigest(self) -> str:
        """The digest of all that came."""
        found = json.dumps([leaf.hexdigest() for leaf in self._leaves])
        return hashlib.blake2b(found.encode(), digest_size=16).hexdigest()


def to_array(leaf: Any) -> np.ndarray:
    """An array of what a batch holds, on any backend."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if hasattr(leaf, "numpy") and not ops.is_tensor(leaf):
        return np.asarray(leaf.numpy())
    if keras.backend.backend() == "torch" and ops.is_tensor(leaf):
        return np.asarray(ops.convert_to_numpy(leaf))
    return np.asarray(leaf)
