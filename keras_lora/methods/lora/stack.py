"""Factors of many tasks, stacked."""

from typing import Any, ClassVar

from keras import ops

from keras_lora.methods.stack import (
    Arrays,
    Kind,
    Settings,
    Shapes,
    Stack,
    filled_up,
)


class LoRAStack(Stack):
    """Factors `A` and `B`, the scale folded into `B`."""

    unit = "rank"
    before_activation = True
    reads: ClassVar[tuple[str, ...]] = ("inputs", "kernel")

    @staticmethod
    def kind_of(settings: Settings) -> Kind:
        return Kind(settings["method"], settings["rank"])

    def shapes(self, host: Any) -> Shapes:
        size_in, size_out = host._sizes()
        return {
            "lora_a": (size_in, self.kind.size),
            "lora_b": (self.kind.size, size_out),
        }

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        scale = settings["alpha"] / settings["rank"]
        a, b, size = weights["lora_a"], weights["lora_b"], self.kind.size
        return {
            "lora_a": filled_up(a, (len(a), size)),
            "lora_b": filled_up(b * scale, (size, b.shape[1])),
        }

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        a, b = self.variables["lora_a"], self.variables["lora_b"]
        return y + ops.cast(host.rows_delta(x, a, b, ids), y.dtype)

    def apply_reverse(self, host: Any, x: Any, ids: Any) -> Any:
        """The update of a tied table's logits."""
        a, b = self.variables["lora_a"], self.variables["lora_b"]
        return host.rows_reverse_delta(x, a, b, ids)
