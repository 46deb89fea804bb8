"""Rows of equal shapes, kept together, in memory or in files."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 128
"""Bytes before the values in a file, whose number is known at the end."""
Shapes = tuple[tuple[int, ...], ...]
"""The shape of one row of each array."""


@dataclass
class Bucket:
    """Rows whose arrays have the same shapes.

    Attributes:
        shapes: Of one row of each array.
        arrays: Values, all rows of an array in one.
        rows: Which row of all each is, in rising order.
    """

    shapes: Shapes
    arrays: list[np.ndarray]
    rows: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(array.nbytes for array in self.arrays)


class InMemory:
    """An array that grows."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._buffer = np.empty((0, *shape), dtype)
        self._rows = 0

    def append(self, values: np.ndarray) -> None:
        """Adds rows."""
        wanted = self._rows + len(values)
        if wanted > len(self._buffer):
            self._resize(max(wanted, len(self._buffer) * 5 // 4))
        self._buffer[self._rows : wanted] = values
        self._rows = wanted

    def finish(self) -> np.ndarray:
        """The array, with no room to spare."""
        self._resize(self._rows)
        return self._buffer

    def _resize(self, rows: int) -> None:
        # In place, where the system can: a copy would take twice the memory.
        self._buffer.resize((rows, *self._buffer.shape[1:]), refcheck=False)


class InFile:
    """An array that grows in a `.npy` file, which is not held open."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._path, self._shape = path, shape
        self._dtype, self._rows = np.dtype(dtype), 0
        path.write_bytes(b"\0" * HEADER)

    def append(self, values: np.ndarray) -> None:
        """Adds rows."""
        with open(self._path, "ab") as file:
            file.write(np.ascontiguousarray(values, self._dtype).data)
        self._rows += len(values)

    def finish(self) -> np.ndarray:
        """Writes the header; the array stays in its file."""
        shape = (self._rows, *self._shape)
        with open(self._path, "r+b") as file:
            file.write(header(self._dtype, shape))
            file.flush()
            os.fsync(file.fileno())
        return mapped(self._path, self._dtype, shape)


def header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The first bytes of a `.npy` file, always as many."""
    text = (
        f"{{'descr': {dtype.str!r}, 'fortran_order': False, "
        f"'shape': ({', '.join(map(str, shape))},), }}"
    )
    room = HEADER - 10
    assert len(text) < room, text
    size = room.to_bytes(2, "little")
    return b"\x93NUMPY\x01\x00" + size + text.ljust(room - 1).encode() + b"\n"


def mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The values of such a file, read as they are asked for."""
    return np.memmap(path, dtype, "r", HEADER, shape)


def bytes_of(dtype: np.dtype, shape: Sequence[int]) -> int:
    """The size of such a file."""
    return HEADER + dtype.itemsize * math.prod(shape)


@dataclass
class Buckets:
    """All buckets while they are filled.

    Attributes:
        folder: Where files go; None for memory.
    """

    folder: Path | None = None
    _parts: dict[Shapes, list[Any]] = field(default_factory=dict)
    _dtypes: list[Any] = field(default_factory=list)

    def append(self, rows: np.ndarray, arrays: list[np.ndarray]) -> None:
        """Adds rows of equal shapes: each array has one entry per row."""
        shapes = tuple(tuple(array.shape[1:]) for array in arrays)
        self._dtypes = self._dtypes or [array.dtype for array in arrays]
        if shapes not in self._parts:
            number = len(self._parts)
            self._parts[shapes] = [
                self._new(number, *each)
                for each in enumerate(
                    zip(
                        [(), *shapes],
                        [np.dtype("int64"), *self._dtypes],
                        strict=True,
                    )
                )
            ]
        for part, values in zip(
            self._parts[shapes], [rows, *arrays], strict=True
        ):
            part.append(values)

    def _new(
        self, bucket: int, number: int, kind: tuple[tuple[int, ...], Any]
    ) -> InMemory | InFile:
        if self.folder is None:
            return InMemory(*kind)
        return InFile(self.folder / file_name(bucket, number), *kind)

    def finish(self) -> list[Bucket]:
        """The buckets, shortest rows first."""
        found = []
        for shapes, parts in self._parts.items():
            rows, *arrays = (part.finish() for part in parts)
            found.append(Bucket(shapes, arrays, np.array(rows)))
        return found


def file_name(bucket: int, number: int) -> str:
    """The file of an array of a bucket; the first has its rows' numbers."""
    return f"{bucket}.{number}.npy"
