"""Bottlenecks of many tasks, stacked."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from keras_lora.methods.bottleneck.layer import (
    bottleneck_delta,
    bottleneck_size,
)
from keras_lora.methods.stack import (
    Arrays,
    Kind,
    Settings,
    Shapes,
    Stack,
    filled_up,
    one_for_all,
)
from keras_lora.model import graphs


@dataclass(frozen=True)
class BottleneckKind(Kind):
    """What bottlenecks must share to be stacked on one layer.

    Attributes:
        width_in: Width of what they read.
        width: Width of the host's output.
        activation: Name of a Keras activation.
        layer_norm: Whether what they read is layer-normalized first.
    """

    width_in: int
    width: int
    activation: str
    layer_norm: bool

    @property
    def key(self) -> str:
        form = f"{self.method}:{self.activation}:{int(self.layer_norm)}"
        return form + self.suffix


class BottleneckStack(Stack):
    """Weights of bottlenecks; vectors have an axis of size 1 in front."""

    kind: BottleneckKind
    unit = "width"
    before_activation = False
    reads: ClassVar[tuple[str, ...]] = ("outputs",)

    @staticmethod
    def kind_of(settings: Settings) -> BottleneckKind:
        width: int = settings["width"]
        return BottleneckKind(
            settings["method"],
            bottleneck_size(settings, width),
            settings.get("width_in", width),
            width,
            settings["activation"],
            settings["layer_norm"],
        )

    def shapes(self, host: Any) -> Shapes:
        kind = self.kind
        shapes: Shapes = {
            "down_kernel": (kind.width_in, kind.size),
            "down_bias": (1, kind.size),
            "up_kernel": (kind.size, kind.width),
            "up_bias": (1, kind.width),
        }
        if kind.layer_norm:
            shapes["norm_gamma"] = shapes["norm_beta"] = (1, kind.width_in)
        return shapes

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        kind, size = self.kind, self.kind.size
        down, bias = weights["down_kernel"], weights["down_bias"][None]
        values = {
            "down_kernel": filled_up(down, (kind.width_in, size)),
            "down_bias": filled_up(bias, (1, size)),
            "up_kernel": filled_up(weights["up_kernel"], (size, kind.width)),
            "up_bias": weights["up_bias"][None],
        }
        if self.kind.layer_norm:
            values["norm_gamma"] = weights["norm_gamma"][None]
            values["norm_beta"] = weights["norm_beta"][None]
        return values

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self.apply(host, x, y[0], ids), *y[1:]])
        read = ops.cast(x if "inputs" in self.reads else y, "float32")
        weights = self.gathered(ids)
        if not one_for_all(ids):
            rows = ops.shape(weights["up_bias"])[0]
            read = ops.reshape(read, (rows, -1, self.kind.width_in))
        delta = bottleneck_delta(read, weights, vars(self.kind))
        delta = ops.cast(ops.reshape(delta, ops.shape(y)), y.dtype)
        return graphs.keep_mask(y, y + delta)


class ParallelStack(BottleneckStack):
    """Weights of bottlenecks beside a layer, the scale folded into `up`."""

    reads: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        values = super().values(host, settings, weights)
        for name in ("up_kernel", "up_bias"):
            values[name] = values[name] * settings["scale"]
        return values
