"""Whether a stored head goes on a base's output, row by row."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_lora.files.head_cost import LENGTH
from keras_lora.model.surgery import Layer

LENGTHS = (64, LENGTH)
"""What an axis of unknown length is tried with: poolings need some."""
MASKED = ("GlobalAveragePooling1D", "Softmax")
"""Layers of a head that read a mask when they predict."""
MOST_TRIED = 1 << 22
"""Numbers a row, past which the longer one is not tried."""


def output_shape(outputs: list[Any], number: int) -> Any:
    """The shape of one of a base's outputs, or None where there is none."""
    return outputs[number].shape if 0 <= number < len(outputs) else None


def head_misfits(
    record: dict[str, Any], layers: list[Layer], outputs: list[Any]
) -> list[str]:
    """Says why a head does not go on the base's output.

    A head that was named may stand behind something the file does not hold.
    """
    number = record["input"]
    if not 0 <= number < len(outputs):
        return [
            f"its head is on output {number} of the base, which has "
            f"{len(outputs)}"
        ]
    y = outputs[number]
    for n, (entry, layer) in enumerate(
        zip(record["layers"], layers, strict=True)
    ):
        where = f"its head's layer {n} ({entry['class']})"
        built = entry["input_shape"]
        if built is not None and not same_shape(built, y.shape):
            return [
                f"{where} takes shape {tuple(built)} and would get {y.shape}"
            ]
        try:
            y = layer.compute_output_spec(y)
        except Exception as error:
            return [f"{where} does not fit: {error}"]
    problems: list[str] = []
    open_axes = outputs[number].shape[1:].count(None)
    known = math.prod(n for n in outputs[number].shape[1:] if n is not None)
    for length in LENGTHS:
        if problems and length**open_axes * known > MOST_TRIED:
            break
        problems = rows_meet(layers, outputs[number], length)
        if not problems or not open_axes:
            break
    return problems


def reads_mask(record: dict[str, Any], layers: list[Layer]) -> list[str]:
    """Says which layer of a head reads the mask that the base's output has.

    A bank hands on numbers alone: a mean would be one of the padding too.
    """
    for number, (entry, layer) in enumerate(
        zip(record["layers"], layers, strict=True)
    ):
        if entry["class"] in MASKED:
            return [
                f"its head's layer {number} ({entry['class']}) reads the mask "
                "that the base's output carries, which a bank does not hand "
                "on: end the base behind that layer"
            ]
        if not layer.supports_masking:
            break  # nothing behind it has a mask
    return []


def rows_meet(layers: list[Layer], spec: Any, length: int) -> list[str]:
    """Says whether a head fails, or one row of its output reads another.

    A bank gives it the rows of other adapters too. The first row's output has
    to be the same to the bit next to any other; NaN goes through most of what
    weights and activations could hide.
    """
    shape = [length if n is None else n for n in spec.shape[1:]]
    row = np.random.default_rng(0).normal(size=shape).astype("float32")
    others = [-row, 1e3 * row, -1e3 * row]
    if "float" in str(spec.dtype):
        others.append(np.full_like(row, np.nan))
    found = set()
    for other in others:
        y = ops.cast(np.stack([row, other]), spec.dtype)
        for number, layer in enumerate(layers):
            try:
                y = run_head([layer], y)
            except Exception as error:
                kind = type(layer).__name__
                return [
                    f"its head does not run: layer {number} ({kind}) on shape "
                    f"{tuple(y.shape)}: {error}"
                ]
        y = ops.convert_to_numpy(ops.cast(y, "float32"))
        if len(y) != 2 or not np.isfinite(y[0]).all():
            return ["its head gives a row no number"]
        found.add(y[0].tobytes())
    if len(found) > 1:
        return ["its head mixes the rows of a batch"]
    return []


def run_head(layers: Sequence[Layer], y: Any) -> Any:
    """Runs a head's layers as they predict."""
    for layer in layers:
        trains = "training" in layer.call_signature_parameters
        y = layer(y, training=False) if trains else layer(y)
    return y


def same_shape(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two shapes agree wherever both are known."""
    return len(some) == len(others) and all(
        a is None or b is None or a == b
        for a, b in zip(some, others, strict=True)
    )
