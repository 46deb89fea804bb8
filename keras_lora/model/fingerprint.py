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
Digests = dict[str, list[Any]]
"""Dtype, shape and hash of variables, by name or by path."""


def size_in_bytes(variables: Iterable[Any]) -> int:
    """Bytes that the values of some variables take."""
    return sum(
        int(np.prod(variable.shape)) * itemsize(str(variable.dtype))
        for variable in variables
    )


def own_bytes(layers: Iterable[Layer]) -> int:
    """Bytes of what some layers own, adapter weights left out."""
    return sum(size_in_bytes(own_variables(layer).values()) for layer in layers)


def itemsize(dtype: str) -> int:
    """Bytes a value takes, for every dtype that Keras names."""
    if dtype == "bfloat16":
        return 2
    if dtype.startswith("float8"):
        return 1
    return np.dtype(dtype).itemsize


def is_sampled(layers: Iterable[Layer]) -> bool:
    """Whether a base of these layers is too large to hash every value."""
    return own_bytes(layers) >= WHOLE_BELOW


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


def layer_digests(layer: Layer, sampled: bool) -> Digests:
    """The digest of each variable that a layer owns, adapter left out."""
    return {
        name: digest(variable, sampled)
        for name, variable in own_variables(layer).items()
    }


def by_path(digests: dict[str, Digests]) -> Digests:
    """Digests by layer path, as one flat table by `<path>/<variable>`."""
    return {
        join(path, name): entry
        for path, of_layer in digests.items()
        for name, entry in of_layer.items()
    }


def differences(expected: Digests, found: Digests) -> list[str]:
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
    expected: Digests, found: Digests, whose: str = "the file's"
) -> list[str]:
    """Says how a base is another one than a table, `whose`, describes."""
    return differences(expected, found) + [
        f"{path}: not in {whose} base" for path in found if path not in expected
    ]
