"""Reads the tensors of a torch file without torch, and runs nothing of it.

A file of torch's old format is a row of pickles and then the tensors' bytes:
a magic number, the format's version, the sizes of the writer's types, the
names of the tensors with where each lies, and the keys of the storages.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.images.pickles import Name, PickleError, PickleReader

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
STORAGES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
}
"""What tensors may hold, by the class that the file names."""

MOST_BYTES = 1 << 30
"""The largest file that is read."""
MOST_AXES = 8


class TorchFileError(PickleError):
    """A file that holds anything but tensors, or not all of their bytes."""


@dataclass(frozen=True)
class Storage:
    """Numbers that one or more tensors lie in."""

    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def within(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor's own copy of its numbers."""
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :],
            self.shape,
            [step * numbers.itemsize for step in self.strides],
        ).copy()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save` wrote in its old format.

    Args:
        path: A file of a `state_dict`: names and dense tensors.

    Returns:
        Arrays by name, each with memory of its own.

    Raises:
        TorchFileError: The file holds or asks for anything else, is cut short
            or goes on after its end.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TorchFileError("it is too large")
        return _read(io.BytesIO(path.read_bytes()))
    except PickleError as error:
        raise TorchFileError(f"{path.name} was not read: {error}") from None


def _read(file: io.BytesIO) -> dict[str, np.ndarray]:
    head = [_plain(file), _plain(file)]
    if head != [MAGIC, VERSION]:
        raise TorchFileError("it is no torch file of the old format")
    about = _plain(file)
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise TorchFileError("its numbers are not little-endian")
    tensors = PickleReader(_NAMES, _storage).read(file)
    keys = _plain(file)
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, Tensor) for tensor in tensors.values()
    ):
        raise TorchFileError("it holds other things than tensors by name")
    storages: dict[Any, Storage] = {}
    for tensor in tensors.values():
        known = storages.setdefault(tensor.storage.key, tensor.storage)
        if known != tensor.storage:
            raise TorchFileError("two of its storages have one key")
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise TorchFileError("its storages are not those of its tensors")
    numbers = {key: _numbers(file, storages[key]) for key in keys}
    if file.read(1):
        raise TorchFileError("it goes on after its last tensor")
    return {
        name: tensor.within(numbers[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def _plain(file: io.BytesIO) -> Any:
    """The next pickle, of numbers and texts alone."""
    return PickleReader({}, _storage).read(file)


def _storage(described: Any) -> Storage:
    """A storage as a pickle describes it."""
    match described:
        case ("storage", Name(name=kind), str(key), str(), int(size), None):
            if kind in STORAGES and 0 <= size <= MOST_BYTES:
                return Storage(key, STORAGES[kind], size)
    raise TorchFileError("it names a storage in an unknown way")


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    """A tensor, if it lies inside of its storage and is no larger.

    Its axes may be in any order there.
    """
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(
        type(size) is int and 0 <= size <= MOST_BYTES for size in sizes
    ):
        raise TorchFileError("it has a tensor of no known shape")
    if len(shape) > MOST_AXES or len(strides) != len(shape):
        raise TorchFileError("it has a tensor with too many axes or strides")
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.size or offset + last >= storage.size:
        raise TorchFileError(f"it has a tensor {shape} outside of its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _ordered_dict() -> dict[str, Any]:
    """An empty one; torch's files fill it afterwards."""
    return {}


_NAMES = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    **dict.fromkeys(STORAGES),
}


def _numbers(file: io.BytesIO, storage: Storage) -> np.ndarray:
    """The next storage's numbers, after their count."""
    if int.from_bytes(file.read(8), "little") != storage.size:
        raise TorchFileError("a storage has another size than its tensors say")
    data = file.read(storage.size * storage.dtype.itemsize)
    if len(data) != storage.size * storage.dtype.itemsize:
        raise TorchFileError("it is cut short")
    return np.frombuffer(data, storage.dtype)
