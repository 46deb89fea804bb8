"""Adapter weights of many tasks stacked in slots.

Slot 0 is the base: it stays zero. A slot that is zero adds exactly nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from keras import ops

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kind:
    """What adapters must share to be stacked on one layer.

    Attributes:
        method: The adapter's.
        size: Rank or inner width; smaller adapters are padded with zeros.
        width: Width of the host's output; 0 for low-rank methods, which know
            their own.
        activation: Of a bottleneck.
        layer_norm: Of a bottleneck.
        width_in: Width of what a parallel bottleneck reads.
    """

    method: str
    size: int
    width: int = 0
    activation: str = ""
    layer_norm: bool = False
    width_in: int = 0

    @property
    def key(self) -> str:
        """Kinds with one key differ in size only: the largest serves all."""
        if not self.activation:
            return self.method
        return f"{self.method}:{self.activation}:{int(self.layer_norm)}"


@dataclass
class Stack:
    """The stacked weights of one kind on one layer.

    Attributes:
        kind: What they share.
        variables: By name, (slots, ...).
        used: Slots that are not zero.
    """

    kind: Kind
    variables: dict[str, Any]
    used: set[int] = field(default_factory=set)

    before_activation: ClassVar[bool]
    """Whether it acts on the host's product rather than its output."""
    reads: ClassVar[tuple[str, ...]]
    """What has to be made of rows: the host's `"inputs"`, its `"outputs"`."""

    @staticmethod
    def kind_of(settings: dict[str, Any]) -> Kind:
        """The kind for an adapter with these settings."""
        raise NotImplementedError

    @staticmethod
    def shapes(host: Any, kind: Kind) -> Shapes:
        """The shape of one slot of each variable."""
        raise NotImplementedError

    @staticmethod
    def values(
        host: Any, settings: dict[str, Any], weights: Arrays, kind: Kind
    ) -> Arrays:
        """An adapter's weights for one layer as a slot has them, padded."""
        raise NotImplementedError

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        """What a host makes of its input `x` and its own `y`, updated.

        Args:
            host: The layer.
            x: Its input.
            y: Its product, or its output.
            ids: Int32 tensor (rows,) of slots, or one slot () for all.
        """
        raise NotImplementedError

    def write(self, slot: int, values: Arrays | None) -> None:
        """Fills one slot, or empties it; what is empty is left alone."""
        if values is None and slot not in self.used:
            return
        self.used.add(slot)
        for name, variable in self.variables.items():
            value = (
                np.zeros(variable.shape[1:], "float32")
                if values is None
                else values[name]
            )
            start = (slot,) + (0,) * value.ndim
            variable.assign(
                ops.slice_update(
                    ops.convert_to_tensor(variable),
                    start,
                    ops.convert_to_tensor(value[None], "float32"),
                )
            )
        if values is None:
            self.used.discard(slot)

    def gathered(self, ids: Any) -> dict[str, Any]:
        """The weights of each row, or of the one slot in force."""
        return {
            name: ops.take(variable, ids, axis=0)
            for name, variable in self.variables.items()
        }
