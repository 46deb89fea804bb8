"""Bottlenecks of many tasks, stacked."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.bottleneck.layer import (
    bottleneck_delta,
    bottleneck_size,
)
from keras_lora.methods.stack import Arrays, Kind, Shapes, Stack
from keras_lora.model import surgery


@dataclass(frozen=True)
class BottleneckKind(Kind):
    """What bottlenecks must share to be stacked on one layer.

    Attributes:
        width: Width of the host's output.
        activation: Name of a Keras activation.
        layer_norm: Whether what they read is layer-normalized first.
        width_in: Width of what a parallel one reads.
    """

    width: int
    activation: str
    layer_norm: bool
    width_in: int = 0

    @property
    def key(self) -> str:
        return f"{self.method}:{self.activation}:{int(self.layer_norm)}"


class BottleneckStack(Stack):
    """Weights of bottlenecks; vectors have an axis of size 1 in front."""

    kind: BottleneckKind
    unit = "width"
    before_activation = False
    reads: ClassVar[tuple[str, ...]] = ("outputs",)

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> BottleneckKind:
        return BottleneckKind(
            settings["method"],
            bottleneck_size(settings, settings["width"]),
            settings["width"],
            settings["activation"],
            settings["layer_norm"],
        )

    @staticmethod
    def shapes(host: Any, kind: Any) -> Shapes:
        shapes: Shapes = {
            "down_kernel": (kind.width, kind.size),
            "down_bias": (1, kind.size),
            "up_kernel": (kind.size, kind.width),
            "up_bias": (1, kind.width),
        }
        if kind.layer_norm:
            shapes["norm_gamma"] = shapes["norm_beta"] = (1, kind.width)
        return shapes

    @staticmethod
    def values(
        host: Any,
        settings: dict[str, Any],
        weights: Arrays,
        kind: Any,
    ) -> Arrays:
        pad = kind.size - weights["down_bias"].shape[0]
        values = {
            "down_kernel": np.pad(weights["down_kernel"], ((0, 0), (0, pad))),
            "down_bias": np.pad(weights["down_bias"], (0, pad))[None],
            "up_kernel": np.pad(weights["up_kernel"], ((0, pad), (0, 0))),
            "up_bias": weights["up_bias"][None],
        }
        if kind.layer_norm:
            values["norm_gamma"] = weights["norm_gamma"][None]
            values["norm_beta"] = weights["norm_beta"][None]
        return values

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self.apply(host, x, y[0], ids), *y[1:]])
        delta = self.delta(y, ids, self.kind.width)
        delta = ops.cast(ops.reshape(delta, ops.shape(y)), y.dtype)
        return surgery.keep_mask(y, y + delta)

    def delta(self, x: Any, ids: Any, width: int) -> Any:
        """What the rows' bottlenecks make of `x` (..., width), in float32."""
        settings = {
            "activation": self.kind.activation,
            "layer_norm": self.kind.layer_norm,
        }
        x = ops.cast(x, "float32")
        if len(ids.shape):
            x = ops.reshape(x, (ops.shape(ids)[0], -1, width))
        return bottleneck_delta(x, self.gathered(ids), settings)


class ParallelStack(BottleneckStack):
    """Weights of bottlenecks beside a layer, the scale folded into `up`."""

    reads: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> BottleneckKind:
        kind = BottleneckStack.kind_of(settings)
        return replace(kind, width_in=settings["width_in"])

    @staticmethod
    def shapes(host: Any, kind: Any) -> Shapes:
        shapes = BottleneckStack.shapes(host, kind)
        shapes["down_kernel"] = (kind.width_in, kind.size)
        if kind.layer_norm:
            shapes["norm_gamma"] = shapes["norm_beta"] = (1, kind.width_in)
        return shapes

    @staticmethod
    def values(
        host: Any,
        settings: dict[str, Any],
        weights: Arrays,
        kind: Any,
    ) -> Arrays:
        values = BottleneckStack.values(host, settings, weights, kind)
        for name in ("up_kernel", "up_bias"):
            values[name] = values[name] * settings["scale"]
        return values

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self.apply(host, x, y[0], ids), *y[1:]])
        delta = self.delta(x, ids, self.kind.width_in)
        delta = ops.cast(ops.reshape(delta, ops.shape(y)), y.dtype)
        return surgery.keep_mask(y, y + delta)
