"""Factors of many tasks, stacked."""

from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.stack import Arrays, Kind, Shapes, Stack


class LoRAStack(Stack):
    """Factors `A` and `B`, the scale folded into `B`."""

    unit = "rank"
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
