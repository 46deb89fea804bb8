"""LoRA whose update counts from where its factors started.

Factors that hold a part of the base's kernel (PiSSA, MiLoRA) would add that
part again. They would have to be taken out of the kernel, which other adapters
share; here what they started as is taken off the update instead.
"""

from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.host import Specs
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.lora.low_rank import LowRank
from keras_lora.model.classes import class_on
from keras_lora.model.surgery import Layer

Arrays = dict[str, np.ndarray]


class PiSSA(LowRank):
    """Mixin for a LoRA class: adds `x (A B - A0 B0) * scale`."""

    neutral_weights: ClassVar[tuple[str, ...]] = ("lora_b", "start_b")
    fixed_weights: ClassVar[tuple[str, ...]] = ("start_a", "start_b")

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        specs = super().weight_specs(settings)
        (shape_a, _), (shape_b, _) = specs["lora_a"], specs["lora_b"]
        starts = {"start_a": (shape_a, "zeros"), "start_b": (shape_b, "zeros")}
        return {**specs, **starts}

    def start_from(self, a: Any, b: Any) -> None:
        """Sets where the factors start; ranks beyond those given stay."""
        values = {
            name: ops.convert_to_numpy(self.adapter_weights[name]).copy()
            for name in ("lora_a", "lora_b")
        }
        values["lora_a"][:, : a.shape[1]] = a
        values["lora_b"][: b.shape[0]] = b
        for name in ("a", "b"):
            for kind in ("lora", "start"):
                variable = self.adapter_weights[f"{kind}_{name}"]
                variable.assign(values[f"lora_{name}"])

    def delta(self, x: Any) -> Any:
        x = self.dropped(ops.cast(x, "float32"))
        now = self._through(x, self.lora_a, self.lora_b)
        return now - self._through(x, *self._start())

    def update_matrix(self) -> Any:
        start = ops.matmul(*self._start()) * self.lora_scale
        return super().update_matrix() - start

    def frozen_matrix(self) -> Any:
        """The kernel less what the factors start with."""
        start = ops.matmul(*self._start()) * self.lora_scale
        return super().frozen_matrix() - start  # type: ignore[misc]

    def _reverse_delta(self, x: Any) -> Any:
        a, b = self._start()
        x32 = ops.cast(x, "float32")
        start = self._transposed(x32, a, b * self.lora_scale)  # type: ignore[attr-defined]
        return super()._reverse_delta(x) - start  # type: ignore[misc]

    def _start(self) -> tuple[Any, Any]:
        return self.adapter_weights["start_a"], self.adapter_weights["start_b"]

    def stored(
        self, settings: dict[str, Any], values: Arrays
    ) -> tuple[dict[str, Any], Arrays]:
        """A plain LoRA of twice the rank: `[A, A0]` and `[B, -B0]`."""
        a = np.concatenate([values["lora_a"], values["start_a"]], axis=1)
        b = np.concatenate([values["lora_b"], -values["start_b"]], axis=0)
        plain = {
            **settings,
            "method": "lora",
            "rank": 2 * settings["rank"],
            "alpha": 2 * settings["alpha"],
        }
        return plain, {"lora_a": a, "lora_b": b}


def pissa_class(layer: Layer) -> type | None:
    """The class that makes a layer a host of such LoRA weights, or None."""
    plain = lora_class(layer)
    return None if plain is None else class_on(plain, PiSSA)
