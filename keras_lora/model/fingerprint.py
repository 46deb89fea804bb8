"""A digest of each variable of a base: has it moved, is it the same base."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
ALONE = 1 << 20
"""Bytes below which a variable is hashed sooner than a thread is told of it."""


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
    return [*described(variable), hashed(values_of(variable, sampled))]


def described(variable: Any) -> list[Any]:
    """A variable's dtype and shape, as they stand in a file."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return [str(dtype), [int(n) for n in variable.shape]]


def values_of(variable: Any, sampled: bool) -> np.ndarray:
    """What is hashed of a variable, on the host; not copied if it is there."""
    # A tensor of it: numpy copies variables, and Keras copies for numpy.
    value = ops.stop_gradient(variable)
    count = int(np.prod(variable.shape))
    if sampled and count > SAMPLE:
        value = ops.reshape(value, (-1,))[:: -(-count // SAMPLE)]
    try:
        return np.asarray(value)
    except TypeError:  # torch: on another device, or a dtype of its own
        return np.asarray(ops.convert_to_numpy(value))


def hashed(values: np.ndarray) -> str:
    """The hash of some values' bytes."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return hashlib.blake2b(flat.view("uint8").data, digest_size=8).hexdigest()


def digests_of(layers: Mapping[str, Layer], sampled: bool) -> Digests:
    """The digest of each variable that some layers own, adapters left out."""
    return hash_all(variables_of(layers), sampled)


def variables_of(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """The variables that layers own by `<path>/<name>`, adapters left out."""
    return {
        join(path, name): variable
        for path, layer in layers.items()
        for name, variable in own_variables(layer).items()
    }


def hash_all(variables: Mapping[str, Any], sampled: bool) -> Digests:
    """The digest of each variable; large ones are hashed side by side."""
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[Future[str]] = deque()
    hashes = {}
    with ThreadPoolExecutor(workers) as pool:
        for path, variable in variables.items():
            hashes[path] = begin(pool, waiting, values_of(variable, sampled))
            if len(waiting) > 2 * workers:  # values may have been copied here
                waiting.popleft().result()
        return {
            path: [*described(variable), hashes[path]()]
            for path, variable in variables.items()
        }


def begin(
    pool: ThreadPoolExecutor, waiting: deque[Future[str]], values: np.ndarray
) -> Callable[[], str]:
    """Hashes values, in another thread where that pays; gives the hash."""
    if values.nbytes >= ALONE:
        try:
            waiting.append(pool.submit(hashed, values))
            return waiting[-1].result
        except RuntimeError:  # no thread starts while Python ends
            pass
    mine = hashed(values)
    return lambda: mine


def by_name(digests: Digests, layer: Layer, path: str) -> Digests:
    """The digests of one layer's own variables, out of those of a base."""
    return {name: digests[join(path, name)] for name in own_variables(layer)}


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
