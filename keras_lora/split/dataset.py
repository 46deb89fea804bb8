"""Features computed once, as batches for `fit`, `evaluate` and `predict`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lora.errors import raise_if
from keras_lora.split.buckets import Bucket

STEP = 8
"""Lengths of rows that are cut or padded are multiples of this."""


@dataclass(frozen=True)
class Layout:
    """How a row's arrays make up inputs, labels and weights.

    Attributes:
        parts: Structures with an array's number at each place, one for each
            part.
        padded: Whether zeros may be added to the second axis.
    """

    parts: tuple[Any, ...]
    padded: bool

    def batch(self, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """What `fit` takes of a batch's arrays."""
        return tuple(
            keras.tree.map_structure(lambda number: arrays[number], part)
            for part in self.parts
        )


@dataclass(frozen=True)
class Rows:
    """A batch: from each bucket, which of its rows, and at which places."""

    parts: tuple[tuple[int, np.ndarray, np.ndarray | None], ...]
    wider: int = 0


class Precomputed(keras.utils.PyDataset):
    """Features that `precompute` made, with their labels.

    A batch has rows of one shape. They are shuffled anew after each epoch.
    `fit` mixes the batches once more by Keras's own seed, unless it is told
    `shuffle=False`.

    Attributes:
        rows: How many rows there are.
        nbytes: Bytes that all of them take, in memory or in files.
    """

    def __init__(
        self,
        buckets: list[Bucket],
        layout: Layout,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.rows = sum(len(bucket.rows) for bucket in buckets)
        self.nbytes = sum(bucket.nbytes for bucket in buckets)
        self._buckets, self._layout = buckets, layout
        self._open = open_axes(buckets)
        self._rng = np.random.default_rng(seed)
        self._shuffle = shuffle
        self._batches = self._shuffled() if shuffle else self._in_order()

    def in_order(self, batch_size: int | None = None) -> "Precomputed":
        """The same rows in the order they came in, for `predict`.

        Rows of different lengths make small batches, unless `mask` was given
        to `precompute`: then they are padded.

        Args:
            batch_size: Rows in a batch; None for as many as here.

        Raises:
            ValueError: On TensorFlow, the first two batches have rows of one
                length and a later one has others, and they cannot be padded:
                Keras would take the first two for all.
        """
        size = batch_size or self.batch_size
        return Precomputed(self._buckets, self._layout, size, shuffle=False)

    def shuffled(
        self, seed: int | None = 0, batch_size: int | None = None
    ) -> "Precomputed":
        """The same rows, shuffled by another seed.

        Args:
            seed: Of the shuffling; None for another one each time.
            batch_size: Rows in a batch; None for as many as here.
        """
        size = batch_size or self.batch_size
        return Precomputed(self._buckets, self._layout, size, seed=seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._layout.batch(self._arrays(self._batches[index]))

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        if self._shuffle:
            self._batches = self._shuffled()

    def _arrays(self, batch: Rows) -> list[np.ndarray]:
        if len(batch.parts) == 1 and not batch.wider:
            bucket, rows, _ = batch.parts[0]
            arrays = self._buckets[bucket].arrays
            return [np.take(array, rows, axis=0) for array in arrays]
        count = sum(len(rows) for _, rows, _ in batch.parts)
        shapes = self._shapes(batch)
        kinds = [array.dtype for array in self._buckets[0].arrays]
        found = [
            np.zeros((count, *shape), dtype)
            for shape, dtype in zip(shapes, kinds, strict=True)
        ]
        for bucket, rows, places in batch.parts:
            for target, array in zip(
                found, self._buckets[bucket].arrays, strict=True
            ):
                corner = tuple(slice(n) for n in array.shape[1:])
                where = slice(None) if places is None else places
                target[(where, *corner)] = array[rows]
        return found

    def _shapes(self, batch: Rows) -> list[tuple[int, ...]]:
        """The shape of a row of each array in a batch."""
        several = [self._buckets[part[0]].shapes for part in batch.parts]
        found = [
            tuple(map(max, zip(*shapes, strict=True)))
            for shapes in zip(*several, strict=True)
        ]
        vary = {number for number, axis in self._open if not axis}
        return [
            (shape[0] + batch.wider, *shape[1:]) if number in vary else shape
            for number, shape in enumerate(found)
        ]

    def _shuffled(self) -> list[Rows]:
        batches: list[Rows] = []
        left: list[tuple[int, np.ndarray]] = []
        for number, bucket in enumerate(self._buckets):
            parts = self._cut(self._rng.permutation(len(bucket.rows)))
            batches += [Rows(((number, rows, None),)) for rows in parts[:-1]]
            left.append((number, parts[-1]))
        batches += self._leftover(left)
        order = self._rng.permutation(len(batches))
        batches = [batches[n] for n in order]
        first = self._telling(batches)
        if first is None:
            return batches
        rest = [b for n, b in enumerate(batches) if n not in first]
        return [batches[n] for n in first] + rest

    def _leftover(self, left: list[tuple[int, np.ndarray]]) -> list[Rows]:
        """Batches of what is left of buckets; of several, where they pad."""
        if not self._layout.padded:
            return [Rows(((number, rows, None),)) for number, rows in left]
        left = sorted(left, key=lambda part: self._buckets[part[0]].shapes)
        owners = np.repeat([n for n, _ in left], [len(r) for _, r in left])
        places = np.concatenate([rows for _, rows in left])
        return [
            Rows(tuple(parts_of(owners[cut], places[cut])))
            for cut in self._cut(np.arange(len(owners)))
        ]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        starts = range(self.batch_size, len(rows), self.batch_size)
        return np.split(rows, starts)

    def _telling(self, batches: list[Rows]) -> tuple[int, int] | None:
        """Two batches that differ in every axis that any differ in.

        Keras looks at the first two alone: an axis of one size in both is
        taken to have it in all, and a later batch fails.
        """
        if not self._open:
            return None
        first_of: dict[Any, int] = {}
        for place, batch in enumerate(batches):
            first_of.setdefault(tuple(self._shapes(batch)), place)
        places = list(first_of.values())
        pairs = itertools.combinations(places, 2)
        if len(places) == 1:  # all are padded alike
            return None
        found = next((p for p in pairs if self._tell(batches, *p)), None)
        problem = (
            "features differ in length by more than one axis, and no two "
            "batches in all of them: give batches of fewer kinds of shapes"
        )
        raise_if("No batches were made", [] if found else [problem])
        return found

    def _tell(self, batches: list[Rows], one: int, other: int) -> bool:
        some, others = self._shapes(batches[one]), self._shapes(batches[other])
        return all(some[n][axis] != others[n][axis] for n, axis in self._open)

    def _in_order(self) -> list[Rows]:
        owner = np.empty(self.rows, "int64")
        place = np.empty(self.rows, "int64")
        for number, bucket in enumerate(self._buckets):
            owner[bucket.rows] = number
            place[bucket.rows] = np.arange(len(bucket.rows))
        whole = self._layout.padded
        ends = np.flatnonzero(np.diff(owner))[: 0 if whole else None] + 1
        batches = [
            Rows(tuple(parts_of(owner[rows], place[rows])))
            for run in np.split(np.arange(self.rows), ends)
            for rows in self._cut(run)
        ]
        if len(batches) < 2 or self._tell(batches, 0, 1):
            return batches
        if self._layout.padded:
            batches[1] = Rows(batches[1].parts, STEP)
            return batches
        return self._refuse_lengths(batches)

    def _refuse_lengths(self, batches: list[Rows]) -> list[Rows]:
        problem = (
            "the first two batches have rows of one length and others do not, "
            "which Keras on TensorFlow does not take: give `precompute` the "
            "name of a `mask`, so that rows can be padded"
        )
        stuck = self._open and keras.backend.backend() == "tensorflow"
        raise_if("No batches were made", [problem] if stuck else [])
        return batches


def open_axes(buckets: list[Bucket]) -> set[tuple[int, int]]:
    """The axes of arrays that are not as long in all buckets."""
    first = buckets[0].shapes
    return {
        (number, axis)
        for bucket in buckets
        for number, shape in enumerate(bucket.shapes)
        for axis, size in enumerate(shape)
        if size != first[number][axis]
    }


def parts_of(
    owners: np.ndarray, places: np.ndarray
) -> list[tuple[int, np.ndarray, np.ndarray | None]]:
    """The rows of a batch by bucket, and where in the batch they go."""
    found = np.unique(owners)
    if len(found) == 1:
        return [(int(found[0]), places, None)]
    return [
        (int(n), places[owners == n], np.flatnonzero(owners == n))
        for n in found
    ]
