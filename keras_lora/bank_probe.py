"""Does a base keep the rows of a batch apart: tried out, not assumed."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora import surgery
from keras_lora.bank_inputs import with_ids
from keras_lora.layers import lora_class
from keras_lora.residency import Residency
from keras_lora.routing import Routed
from keras_lora.stacks import LORA, Kind
from keras_lora.surgery import Layer

LENGTHS = (8, 64)
"""Sizes tried for axes that a base leaves open."""
LARGEST = 128
"""Most rows tried at a time."""


def probe(base: Layer, layers: dict[str, Layer], inputs: Any) -> None:
    """Gives one row a random adapter and watches all others.

    Args:
        base: The base, plain; it is plain again afterwards.
        layers: Its layers by path.
        inputs: Symbolic inputs of its structure.

    Raises:
        ValueError: Another row moved (the layer that mixes rows is named), or
            the base cannot be run by rows.
    """
    trial = Residency(layers, 1)
    able = {p: [Kind(LORA, 1)] for p, la in layers.items() if lora_class(la)}
    try:
        trial.provide(able)
        fill_at_random(trial)
        ids = keras.Input((), dtype="int32", name="adapter_ids")
        outputs = Routed(base, lambda: 2)(inputs, ids)
        check_outputs(base, outputs)
        model = keras.Model(with_ids(inputs, ids), outputs)
        length = usable_length(model, inputs)
        for rows in batch_sizes(inputs, length):
            x = random_inputs(inputs, rows, length)
            if mixes(model.predict_on_batch, x, rows, inputs):
                name = mixing_layer(base, layers, x, rows, inputs)
                raise ValueError(
                    "AdapterBank was not made.\n- "
                    f"{base.name!r} mixes the rows of a batch of {rows} in "
                    f"layer {name!r}: one row's adapter would reach others"
                )
    finally:
        trial.close()


def check_outputs(base: Layer, outputs: Any) -> None:
    """Refuses outputs that cannot say "no such adapter" row by row."""
    for tensor in keras.tree.flatten(outputs):
        if not str(tensor.dtype).startswith(("float", "bfloat")):
            raise ValueError(
                f"AdapterBank was not made.\n- {base.name!r} has an output of "
                f"{tensor.dtype}; only floating-point ones can be served"
            )


def fill_at_random(trial: Residency) -> None:
    """Puts random factors into slot 1 of every host."""
    rng = np.random.default_rng(0)
    for host in trial.hosts.values():
        stack = host.stacks[LORA]
        values = {
            name: rng.normal(size=variable.shape[1:]).astype("float32")
            for name, variable in stack.variables.items()
        }
        values["lora_a"] /= np.sqrt(values["lora_a"].shape[0])
        stack.write(1, values)


def usable_length(model: Any, inputs: Any) -> int:
    """A size for open axes that the base runs with."""
    for length in LENGTHS[:-1]:
        try:
            x = random_inputs(inputs, 2, length)
            model.predict_on_batch(with_ids(x, np.zeros(2, "int32"), inputs))
        except Exception:
            continue
        return length
    return LENGTHS[-1]


def batch_sizes(inputs: Any, length: int) -> list[int]:
    """2, 3, and the size of every other axis of the inputs."""
    sizes = {2, 3}
    for tensor in keras.tree.flatten(inputs):
        sizes |= {size or length for size in tensor.shape[1:]}
    return sorted(size for size in sizes if 1 < size <= LARGEST)


def random_inputs(inputs: Any, rows: int, length: int) -> Any:
    """Noise for floating-point inputs, ones for the others."""
    rng = np.random.default_rng(1)

    def make(tensor: Any) -> np.ndarray:
        shape = (rows, *(size or length for size in tensor.shape[1:]))
        if str(tensor.dtype).startswith(("float", "bfloat")):
            return rng.normal(size=shape).astype("float32")
        return np.ones(shape, tensor.dtype)

    return keras.tree.map_structure(make, inputs)


def mixes(run: Any, x: Any, rows: int, inputs: Any) -> bool:
    """Whether a row's adapter moves any other row."""
    ids = np.zeros(rows, "int32")
    before = run(with_ids(x, ids, inputs))
    ids[rows // 2] = 1
    return others_moved(before, run(with_ids(x, ids, inputs)), rows)


def others_moved(before: Any, after: Any, rows: int) -> bool:
    """Whether two nests differ in another row than the probed one."""
    before = [arrays(a) for a in keras.tree.flatten(before)]
    after = [arrays(a) for a in keras.tree.flatten(after)]
    for one, two in zip(before, after, strict=True):
        if one is None or two is None:
            continue
        if one.ndim == 0 or one.shape[0] % rows:
            if not np.array_equal(one, two, equal_nan=True):
                return True
            continue
        each = one.shape[0] // rows
        others = np.arange(one.shape[0]) // each != rows // 2
        if not np.allclose(
            one[others], two[others], rtol=1e-4, atol=1e-5, equal_nan=True
        ):
            return True
    return False


def arrays(value: Any) -> np.ndarray | None:
    """A tensor as float64, or None for what is no tensor."""
    if value is None or isinstance(value, bool | int | float | str):
        return None
    return np.asarray(ops.convert_to_numpy(value)).astype("float64")


def note(seen: list[Any], path: str, inputs: Any, outputs: Any) -> None:
    """Adds one call of a layer to those seen."""
    seen.append((path, inputs, outputs))


def mixing_layer(
    base: Layer, layers: dict[str, Layer], x: Any, rows: int, inputs: Any
) -> str:
    """The innermost layer whose inputs keep rows apart and outputs do not."""
    runs: list[list[tuple[str, Any, Any]]] = []
    routed = Routed(base, lambda: 2)
    for row in (None, rows // 2):
        seen: list[tuple[str, Any, Any]] = []
        for path, layer in layers.items():
            surgery.record_calls(layer, functools.partial(note, seen, path))
        ids = np.zeros(rows, "int32")
        if row is not None:
            ids[row] = 1
        try:
            tensors = keras.tree.map_structure(ops.convert_to_tensor, x)
            routed(tensors, ops.convert_to_tensor(ids))
        finally:
            for layer in layers.values():
                surgery.forget_calls(layer)
        runs.append(seen)
    for (path, in0, out0), (_, in1, out1) in zip(*runs, strict=True):
        if others_moved(out0, out1, rows) and not others_moved(in0, in1, rows):
            return path or base.name
    return str(base.name)
