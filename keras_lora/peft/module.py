"""One adapted module of a PEFT folder."""

import math
import re
from dataclasses import dataclass, field

from keras_lora.peft.config import LowRank

FACTOR = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|lora_embedding_A"
    r"|lora_embedding_B)(?:\.default)?(?:\.(weight|bias))?",
    re.DOTALL,
)
"""The key of a part of an update: module, part, and weight or bias."""


@dataclass(frozen=True)
class Module:
    """The tensors of one adapted module, by their part in the update."""

    name: str
    keys: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Its rank, as the first factor has it."""
        return self.shapes["lora_A"][0]

    @property
    def sizes(self) -> tuple[int, int]:
        """The widths of its input and output."""
        return self.shapes["lora_A"][1], self.shapes["lora_B"][0]

    def problems(self, settings: LowRank | None) -> list[str]:
        """Says what of it is missing, or no update of a linear module.

        `settings` are None where the config is malformed.
        """
        a, b = self.shapes.get("lora_A"), self.shapes.get("lora_B")
        if any(name.startswith("lora_embedding") for name in self.shapes):
            return [f"{self.name}: LoRA on an embedding is not supported"]
        found = [
            f"{self.name}: it has {name}, which is not supported (lora_bias)"
            for name in self.shapes
            if name.endswith("bias")
        ]
        if a is None or b is None:
            missing = "lora_A" if a is None else "lora_B"
            return [*found, f"{self.name}: there is no {missing}"]
        if len(a) > 2 or len(b) > 2:
            kind = "LoRA on a convolution is not supported"
            return [*found, f"{self.name}: {kind} (lora_A is {a})"]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in a + b:
            return [
                *found,
                f"{self.name}: lora_A {a} and lora_B {b} do not go together: "
                "(r, in) and (out, r) do",
            ]
        length = self.shapes.get("lora_magnitude_vector")
        if length is not None and math.prod(length) != b[0]:
            found.append(
                f"{self.name}: lora_magnitude_vector is {length}, expected "
                f"{b[:1]}"
            )
        return found if settings is None else found + self._odd(settings)

    def _odd(self, settings: LowRank) -> list[str]:
        """Says where it is another one than the config says."""
        found = []
        rank, decomposed = settings.rank(self.name), settings.method == "dora"
        if rank != self.rank:
            found.append(
                f"{self.name}: lora_A is of rank {self.rank}, `r` and "
                f"`rank_pattern` say {rank}"
            )
        if ("lora_magnitude_vector" in self.shapes) != decomposed:
            there = "no" if decomposed else "a"
            found.append(
                f"{self.name}: there is {there} lora_magnitude_vector, and "
                f"use_dora is {decomposed}"
            )
        return found
