"""How each method's weights are stacked and applied: one class a method."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.bottleneck.layer import (
    bottleneck_delta,
    bottleneck_size,
)
from keras_lora.methods.dora import growth
from keras_lora.methods.stack import Arrays, Kind, Shapes, Stack
from keras_lora.model import surgery

LORA = "lora"


class LoRAStack(Stack):
    """Factors `A` and `B`, the scale folded into `B`."""

    before_activation = True
    reads: ClassVar[tuple[str, ...]] = ("inputs",)

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> Kind:
        return Kind(settings["method"], settings["rank"])

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
        size_in, size_out = host._sizes()
        return {
            "lora_a": (size_in, kind.size),
            "lora_b": (kind.size, size_out),
        }

    @staticmethod
    def values(
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
    ) -> Arrays:
        scale = settings["alpha"] / settings["rank"]
        pad = kind.size - settings["rank"]
        return {
            "lora_a": np.pad(weights["lora_a"], ((0, 0), (0, pad))),
            "lora_b": np.pad(weights["lora_b"] * scale, ((0, pad), (0, 0))),
        }

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        a, b = self.variables["lora_a"], self.variables["lora_b"]
        return y + ops.cast(host.rows_delta(x, a, b, ids), y.dtype)

    def apply_reverse(self, host: Any, x: Any, ids: Any) -> Any:
        """The update of a tied table's logits."""
        a, b = self.variables["lora_a"], self.variables["lora_b"]
        return host.rows_reverse_delta(x, a, b, ids)


class DoRAStack(LoRAStack):
    """Factors, and by which share each column grows, which is in `B` too."""

    reads: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
        shapes = LoRAStack.shapes(host, kind)
        return {**shapes, "growth": (shapes["lora_b"][1],)}

    @staticmethod
    def values(
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
    ) -> Arrays:
        values = LoRAStack.values(host, settings, weights, kind)
        a, b = values["lora_a"], values["lora_b"]
        factors = map(ops.convert_to_tensor, (a, b, weights["magnitude"]))
        more = growth(host.kernel_matrix(), *factors)
        more = ops.convert_to_numpy(more)
        return {"lora_a": a, "lora_b": b * (1 + more), "growth": more}

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        more = self.variables["growth"]
        longer = host.rows_scaled(host.unbiased(y), more, ids)
        return super().apply(host, x, y, ids) + ops.cast(longer, y.dtype)


class IA3Stack(Stack):
    """Factors of a layer's output; a kind of no size fits all of them."""

    before_activation = False
    reads: ClassVar[tuple[str, ...]] = ("outputs",)

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> Kind:
        return Kind(settings["method"], 0)

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
        return {"gain": (host._sizes()[1],)}

    @staticmethod
    def values(
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
    ) -> Arrays:
        return weights

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        gain = self.variables["gain"]
        more = host.rows_scaled(ops.cast(y, "float32"), gain, ids)
        return y + ops.cast(more, y.dtype)


class BottleneckStack(Stack):
    """Weights of bottlenecks; vectors have an axis of size 1 in front."""

    before_activation = False
    reads: ClassVar[tuple[str, ...]] = ("outputs",)

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> Kind:
        return Kind(
            settings["method"],
            bottleneck_size(settings, settings["width"]),
            settings["width"],
            settings["activation"],
            settings["layer_norm"],
        )

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
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
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
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
    def kind_of(settings: dict[str, Any]) -> Kind:
        kind = BottleneckStack.kind_of(settings)
        return replace(kind, width_in=settings["width_in"])

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
        shapes = BottleneckStack.shapes(host, kind)
        shapes["down_kernel"] = (kind.width_in, kind.size)
        if kind.layer_norm:
            shapes["norm_gamma"] = shapes["norm_beta"] = (1, kind.width_in)
        return shapes

    @staticmethod
    def values(
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
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


STACKS: dict[str, type[Stack]] = {
    LORA: LoRAStack,
    "dora": DoRAStack,
    "ia3": IA3Stack,
    "bottleneck": BottleneckStack,
    "parallel": ParallelStack,
}


def kind_of(settings: dict[str, Any]) -> Kind:
    """The kind of stack that an adapter with these settings needs."""
    return STACKS[settings["method"]].kind_of(settings)
