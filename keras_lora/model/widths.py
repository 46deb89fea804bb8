"""The widths of what goes into a layer and of what comes out."""

from typing import Any

import keras

from keras_lora.model import graphs, surgery
from keras_lora.model.surgery import Layer

LINEAR = (keras.layers.Dense, keras.layers.EinsumDense)
"""Layers that multiply their input by a kernel."""


def output_width(layer: Layer) -> int | str:
    """The width of a layer's (first) output, or why it has none."""
    try:
        widths = {
            width_of(layer.compute_output_spec(*args, **kwargs))
            for args, kwargs in graphs.symbolic_calls(layer)
        }
    except Exception as error:
        return f"its output's shape is not known ({error})"
    reasons = [width for width in widths if isinstance(width, str)]
    if reasons:
        return reasons[0]
    if len(widths) > 1:
        return f"its outputs have different widths: {sorted(map(int, widths))}"
    return widths.pop()


def width_of(y: Any) -> int | str:
    """The size of the last axis of an output, or why it has none."""
    if isinstance(y, tuple | list) and y:
        y = y[0]
    if not isinstance(y, keras.KerasTensor):
        return f"its output is a {type(y).__name__}, no tensor or tensor-first"
    if not y.shape or y.shape[-1] is None:
        return f"its output's last axis has no fixed size: {y.shape}"
    if not str(y.dtype).startswith(("float", "bfloat")):
        return f"its output is {y.dtype}, no floating-point tensor"
    return int(y.shape[-1])


def output_axes(layer: Layer) -> set[int]:
    """How many axes a layer's (first) outputs have; empty if not known."""
    try:
        outputs = [
            keras.tree.flatten(layer.compute_output_spec(*args, **kwargs))
            for args, kwargs in graphs.symbolic_calls(layer)
        ]
    except Exception:
        return set()
    return {len(found[0].shape) for found in outputs if found}


def input_width(layer: Layer) -> int | str:
    """The width of a layer's first input, or why none can be read there."""
    widths = set()
    for args, kwargs in graphs.symbolic_calls(layer):
        x = surgery.first_argument(type(layer), args, kwargs)
        if not isinstance(x, keras.KerasTensor) or x.shape[-1] is None:
            return "its first input is no tensor of a known width"
        try:
            y = layer.compute_output_spec(*args, **kwargs)
        except Exception as error:
            return f"its output's shape is not known ({error})"
        y = keras.tree.flatten(y)[0]
        if tuple(y.shape[:-1]) != tuple(x.shape[:-1]):
            return f"its input is {x.shape} and its output {y.shape}"
        widths.add(int(x.shape[-1]))
    if len(widths) != 1:
        return f"its inputs have different widths: {sorted(widths)}"
    return widths.pop()


def kernel_shape(layer: Layer) -> tuple[int, ...]:
    """The shape of a linear layer's kernel; a quantized one may be packed."""
    if isinstance(layer, keras.layers.Dense):
        return int(layer.input_spec.axes[-1]), int(layer.units)
    shape = getattr(layer, "original_kernel_shape", None)
    return tuple(shape or surgery.kernel_of(layer).shape)
