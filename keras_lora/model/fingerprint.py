"""A digest of each variable of a base: has it moved, is it the same base."""

import hashlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.model.paths import join, own_variables
from keras_lora.model.surgery import Layer

WHOLE_BELOW = 1 << 30
"""Bytes up to which every value of a base is hashed."""
SAMPLE = 1 << 16
"""Values hashed of each variable of a larger base, at a fixed stride."""


def size_in_bytes(variable: Any) -> int:
    """Bytes that a variable's values take."""
    return int(np.prod(variable.shape)) * itemsize(str(variable.dtype))


def itemsize(dtype: str) -> int:
    """Bytes a value takes, for every dtype that Keras names."""
    if dtype == "bfloat16":
        return 2
    if dtype.startswith("float8"):
        return 1
    return np.dtype(dtype).itemsize


def is_sampled(layers: Iterable[Layer]) -> bool:
    """Whether a base of these layers is too large to hash every value."""
    sizes = [
        size_in_bytes(variable)
        for layer in layers
        for variable in own_variables(layer).values()
    ]
    return sum(sizes) >= WHOLE_BELOW


def digest(variable: Any, sampled: bool) -> list[Any]:
    """A variable's dtype, shape and hash, as they stand in a file."""
    value = ops.convert_to_tensor(variable)
    count = int(np.prod(variable.shape))
    if sampled and count > SAMPLE:
        value = ops.reshape(value, (-1,))[:: -(-count // SAMPLE)]
    data = np.ascontiguousarray(ops.convert_to_numpy(value))
    return [
        str(keras.backend.standardize_dtype(variable.dtype)),
        [int(n) for n in variable.shape],
        hashlib.blake2b(data.tobytes(), digest_size=8).hexdigest(),
    ]


def layer_digests(layer: Layer, sampled: bool) -> dict[str, list[Any]]:
    """The digest of each variable that a layer owns, adapter left out."""
    return {
        name: digest(variable, sampled)
        for name, variable in own_variables(layer).items()
    }


def by_path(
    digests: dict[str, dict[str, list[Any]]],
) -> dict[str, list[Any]]:
    """Digests by layer path, as one flat table by `<path>/<variable>`."""
    return {
        join(path, name): entry
        for path, of_layer in digests.items()
        for name, entry in of_layer.items()
    }


def differences(
    expected: dict[str, list[Any]], found: dict[str, list[Any]]
) -> list[str]:
    """Says how a base differs from the one that a table describes."""
    problems = []
    for path, (dtype, shape, value) in expected.items():
        if path not in found:
            problems.append(f"{path}: missing from this base")
            continue
        here = found[path]
        if here[1] != shape:
            problems.append(f"{path}: shape {here[1]}, expected {shape}")
        elif here[0] != dtype:
            problems.append(f"{path}: dtype {here[0]}, expected {dtype}")
        elif here[2] != value:
            problems.append(f"{path}: other values")
    return problems


def other_base(
    expected: dict[str, list[Any]],
    found: dict[str, list[Any]],
    whose: str = "the file's",
) -> list[str]:
    """Says how a base is another one than a table describes.

    Args:
        expected: The table.
        found: The base's own.
        whose: Whose base the table is of, for the message.
    """
    return differences(expected, found) + [
        f"{path}: not in {whose} base" for path in found if path not in expected
    ]
