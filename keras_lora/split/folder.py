"""Features in a folder: written under another name and renamed when whole.

The folder has a `.npy` file for each array and bucket, and a description. What
is read is bounded by that description, and taken only where it is of the same
weights and inputs.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_lora.errors import raise_if
from keras_lora.files.regular import open_regular, read_regular
from keras_lora.split.buckets import (
    HEADER,
    Bucket,
    bytes_of,
    file_name,
    header,
    mapped,
)

INDEX = "precomputed.json"
KIND = "keras_lora precomputed"
VERSION = 1
MAX_INDEX = 16 << 20
MAX_AXES = 16
ABANDONED_SECONDS = 24 * 3600
"""Age at which what a killed run left is removed."""
DTYPES = {
    np.dtype(name).str
    for name in (
        *("bool", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
MADE_OF = {
    "frozen": "the frozen part has other weights",
    "inputs": "the inputs are others",
    "labels": "the labels or weights of rows are others",
    "dtype": "the dtype is another",
    "mask": "the mask is another",
    "features": "the features have other names",
}
"""What a description has to agree in, and what to say where it does not."""


def place_of(folder: Path) -> Path:
    """Where a folder lies or is to lie: a folder cannot take a link's name."""
    try:
        found = os.path.realpath(folder)
    except (OSError, ValueError) as error:
        raise_if(f"{folder} is no folder", [str(error)])
    return Path(found)


def wrong_place(folder: Path) -> list[str]:
    """What keeps another folder from taking a folder's place."""
    if os.path.ismount(folder):
        problem = "something is mounted there"
    elif folder.is_dir() and folder.samefile("."):
        problem = "it is the working directory"
    else:
        return []
    return [f"{problem}, so that it cannot be replaced: name a folder in it"]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all went well."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    what = f"{folder} was not written"
    raise_if(what, wrong_place(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        part.mkdir()
    except (OSError, ValueError) as error:
        raise_if(what, [str(error)])
    try:
        yield part
        with contextlib.suppress(OSError):  # an empty folder gives way
            folder.rmdir()
        os.rename(part, folder)
    except OSError as error:
        raise_if(what, [str(error)])
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Removes what killed runs for this folder left a while ago."""
    for part in folder.parent.glob(f".{glob_escaped(folder.name)}.*.part"):
        with contextlib.suppress(OSError):
            newest = max(f.stat().st_mtime for f in (part, *part.iterdir()))
            if time.time() - newest > ABANDONED_SECONDS:
                shutil.rmtree(part, ignore_errors=True)


def glob_escaped(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def is_there(folder: Path) -> bool:
    """Whether a path is taken by anything but an empty folder."""
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def write_index(
    folder: Path, made_of: dict[str, Any], buckets: list[Bucket]
) -> None:
    """Describes what the folder holds."""
    found = {
        "kind": KIND,
        "version": VERSION,
        **made_of,
        "buckets": [
            [
                [array.dtype.str, list(array.shape)]
                for array in (bucket.rows, *bucket.arrays)
            ]
            for bucket in buckets
        ],
    }
    with open(folder / INDEX, "w", encoding="utf-8") as file:
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())


def read_index(folder: Path) -> dict[str, Any]:
    """The description, with types and sizes that can be."""
    try:
        found = json.loads(read_regular(folder / INDEX, MAX_INDEX))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"it is no folder of precomputed features: {error}"
        raise_if(f"{folder} was not read", [problem])
    raise_if(f"{folder} was not read", wrong_index(found))
    return dict(found)


def wrong_index(found: Any) -> list[str]:
    """What keeps a description from being one."""
    if not isinstance(found, dict) or found.get("kind") != KIND:
        return ["it is no folder of precomputed features"]
    if found.get("version") != VERSION:
        return ["it was made by another version of keras_lora"]
    buckets = found.get("buckets")
    if not isinstance(buckets, list) or not buckets:
        return ["its description lists no arrays"]
    for bucket in buckets:
        good = isinstance(bucket, list) and len(bucket) > 1
        if not good or not all(map(is_array, bucket)):
            return ["its description has an array that cannot be"]
        if bucket[0][0] != np.dtype("int64").str or len(bucket[0][1]) != 1:
            return ["its description has no numbers of rows"]
        if any(shape[0] != bucket[0][1][0] for _, shape in bucket):
            return ["its arrays have different numbers of rows"]
        if [d for d, _ in bucket] != [d for d, _ in buckets[0]]:
            return ["its buckets hold different arrays"]
        if [len(s) for _, s in bucket] != [len(s) for _, s in buckets[0]]:
            return ["its buckets hold different arrays"]
    return []


def is_array(entry: Any) -> bool:
    """Whether an entry is the dtype and shape of an array with rows."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    dtype, shape = entry
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return False
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_AXES:
        return False
    return all(type(n) is int and 0 < n < 1 << 40 for n in shape)


def different(found: dict[str, Any], made_of: dict[str, Any]) -> list[str]:
    """Says in what a folder's features are not those that are asked for."""
    return [
        text for key, text in MADE_OF.items() if found.get(key) != made_of[key]
    ]


def read_buckets(folder: Path, found: dict[str, Any]) -> list[Bucket]:
    """The arrays of a folder, in their files."""
    buckets, problems = [], []
    for number, entries in enumerate(found["buckets"]):
        arrays = []
        for place, (dtype, shape) in enumerate(entries):
            path = folder / file_name(number, place)
            try:
                arrays.append(read_array(path, np.dtype(dtype), tuple(shape)))
            except (OSError, ValueError) as error:
                problems.append(f"{path.name}: {error}")
        if len(arrays) == len(entries):
            shapes = tuple(tuple(array.shape[1:]) for array in arrays[1:])
            buckets.append(Bucket(shapes, arrays[1:], np.array(arrays[0])))
    raise_if(f"{folder} was not read", problems)
    raise_if(f"{folder} was not read", wrong_rows(buckets))
    return buckets


def read_array(
    path: Path, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """One array, if its file is what the description says."""
    with open_regular(path) as file:
        start = file.read(HEADER)
        size = file.seek(0, os.SEEK_END)
    if start != header(dtype, shape) or size != bytes_of(dtype, shape):
        raise ValueError("not the array that the description says")
    return mapped(path, dtype, shape)


def wrong_rows(buckets: list[Bucket]) -> list[str]:
    """Whether each row is there once, in rising order in its bucket."""
    rows = np.concatenate([bucket.rows for bucket in buckets])
    rising = all((np.diff(bucket.rows) > 0).all() for bucket in buckets)
    if rising and np.array_equal(np.sort(rows), np.arange(len(rows))):
        return []
    return ["its rows are not each there once"]
