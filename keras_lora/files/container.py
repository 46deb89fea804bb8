"""A safetensors file, opened where it is one and not too large to read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors

from keras_lora.errors import raise_if
from keras_lora.files.regular import open_regular

METADATA_KEY = "keras_lora"
MAX_BYTES = 16 << 30
MAX_HEADER = 16 << 20
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each tensor, by key."""


def safetensors_size(path: Path, what: str) -> int:
    """The bytes of a file, which is one and not too large to be read."""
    if os.path.isdir(path):
        raise ValueError(
            f"{what}: it is no file but a folder; `load_peft` takes PEFT's"
        )
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ValueError(f"{what}: {error.strerror}") from error
    if size > MAX_BYTES:
        raise ValueError(f"{what}: {size:,} bytes are over {MAX_BYTES:,}")
    return size


@contextlib.contextmanager
def opened(path: str | Path, what: str, why: str) -> Iterator[Any]:
    """An open safetensors file, whose header is of a size to be read."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of over {MAX_HEADER:,} bytes")
        with safetensors.safe_open(path, "numpy") as opened:
            yield opened
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as e:
        message = e.strerror if isinstance(e, OSError) else e
        raise_if(what, [f"{why}: {message}"])


def header_of(file: Any) -> tuple[str | None, Tensors]:
    """The record's text, and the dtype and shape of each tensor."""
    text = (file.metadata() or {}).get(METADATA_KEY)
    parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
    return text, {
        key: (part.get_dtype(), tuple(part.get_shape()))
        for key, part in parts.items()
    }


def header_digest(text: str | None, tensors: Tensors) -> str:
    """A hash of what a header says."""
    data = json.dumps([text, tensors], sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
