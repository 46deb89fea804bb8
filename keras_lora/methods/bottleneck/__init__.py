"""Bottlenecks on a layer's output, and beside a layer."""

from typing import Any

from keras_lora.methods.bottleneck.config import (
    AdapterConfig,
    wrong_output,
    wrong_parallel,
)
from keras_lora.methods.bottleneck.layer import (
    Adapter,
    OutputBottleneck,
    ParallelBottleneck,
    unknown_activation,
)
from keras_lora.methods.bottleneck.stack import BottleneckStack, ParallelStack
from keras_lora.methods.method import Method, Settings, Widths
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import input_width, output_width


def inner_width(settings: Settings, weights: dict[str, Any]) -> str:
    """The size of a bottleneck."""
    return f"bottleneck {weights['down_kernel'].shape[1]}"


def both_widths(layer: Layer) -> Widths:
    """The widths of a layer's first input and output, or why one has none."""
    return {"width": output_width(layer), "width_in": input_width(layer)}


BOTTLENECK = Method(
    "bottleneck",
    AdapterConfig,
    lambda layer: OutputBottleneck,
    inner_width,
    check=wrong_output,
    stack=BottleneckStack,
    widths=lambda layer: {"width": output_width(layer)},
    misfit=unknown_activation,
)
PARALLEL = Method(
    "parallel",
    AdapterConfig,
    lambda layer: ParallelBottleneck,
    inner_width,
    check=wrong_parallel,
    stack=ParallelStack,
    widths=both_widths,
    misfit=unknown_activation,
)
