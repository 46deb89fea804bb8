"""Reads idx files: arrays of bytes with their shape in front, in gzip."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

MAGIC = 0x0800
"""Two bytes of zero, then 8 for unsigned bytes, then the number of axes."""


class IdxError(ValueError):
    """A file that is no idx file of the wanted kind, or not a whole one."""


def read_idx(path: Path, inner: tuple[int, ...], most: int) -> np.ndarray:
    """The array of a file, uint8.

    No more is unpacked than a file of that kind can hold.

    Args:
        path: A file in gzip.
        inner: What each item's shape must be; () for labels.
        most: How many items there may be.

    Raises:
        IdxError: What is wrong with the file.
    """
    axes = 1 + len(inner)
    try:
        with gzip.open(path) as file:
            head = file.read(4 + 4 * axes)
            shape = _shape(head, inner, most)
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise IdxError(f"{path.name}: no whole gzip file ({error})") from error
    except IdxError as error:
        raise IdxError(f"{path.name}: {error}") from None
    if len(data) != math.prod(shape):
        there = "more" if len(data) > math.prod(shape) else f"{len(data):,}"
        raise IdxError(
            f"{path.name}: {there} bytes where its head, {shape}, says "
            f"{math.prod(shape):,}"
        )
    return np.frombuffer(data, "uint8").reshape(shape)


def _shape(head: bytes, inner: tuple[int, ...], most: int) -> tuple[int, ...]:
    axes = 1 + len(inner)
    if len(head) < 4 + 4 * axes:
        raise IdxError(f"its head has {len(head)} bytes of {4 + 4 * axes}")
    magic, *shape = np.frombuffer(head, ">u4").tolist()
    if magic != MAGIC + axes:
        raise IdxError(
            f"it begins with {magic:#010x}; an idx file of bytes with {axes} "
            f"axes begins with {MAGIC + axes:#010x}"
        )
    if tuple(shape[1:]) != inner or not 0 < shape[0] <= most:
        wanted = ", ".join(map(str, (f"1 to {most}", *inner)))
        raise IdxError(f"its shape is {tuple(shape)}, and not ({wanted})")
    return tuple(shape)
