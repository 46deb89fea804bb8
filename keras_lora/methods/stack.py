"""Adapter weights of many tasks stacked in slots.

Slot 0 is the base: it stays zero. A slot that is zero adds exactly nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.model import surgery
from keras_lora.model.stacked import slots_of

Settings = dict[str, Any]
"""What one layer gets, as it stands in a file; `"method"` has the name."""
Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Own:
    """Stands for ids where weights are gathered: each row has its own."""


OWN = Own()


def of_rows(weights: Any, ids: Any) -> Any:
    """Each row's own weights out of stacked ones, or those of one slot."""
    return weights if ids is OWN else slots_of(weights, ids)


def one_for_all(ids: Any) -> bool:
    """Whether all rows have one slot's weights."""
    return ids is not OWN and not len(ids.shape)


def places(ids: Any, weights: Any) -> Any:
    """Where each row's weights stand among stacked or gathered ones."""
    return ops.arange(weights.shape[0]) if ids is OWN else ids


BASE_BAND, ALL_BANDS = -1, 1 << 30
"""What of the stacks is read up to a band: none, or all."""


def largest_of(band: int) -> int:
    """The largest size in a band."""
    return 16 << 2 * band


@dataclass(frozen=True)
class Kind:
    """What adapters must share to be stacked on one layer.

    Attributes:
        method: The adapter's.
        size: Rank or inner width; smaller adapters are padded with zeros.
    """

    method: str
    size: int

    @property
    def band(self) -> int:
        """Sizes up to 16 are of band 0, up to 64 of 1, up to 256 of 2, ...

        A wide adapter does not widen the slots of narrow ones.
        """
        band = 0
        while largest_of(band) < self.size:
            band += 1
        return band

    @property
    def key(self) -> str:
        """Kinds with one key differ in size only: the largest serves all."""
        return self.method + self.suffix

    @property
    def suffix(self) -> str:
        """What a key ends in, so that each band has its own."""
        return f":{self.band}" if self.band else ""


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

    unit: ClassVar[str]
    """What a kind's size is called; empty where it has none."""
    before_activation: ClassVar[bool]
    """Whether it acts on the host's product rather than its output."""
    beside: ClassVar[bool] = False
    """Whether it is a stage of a ladder beside the base."""
    reads: ClassVar[tuple[str, ...]]
    """What has to be of each row: the host's `"inputs"`, its `"outputs"`, or
    what is done with its `"kernel"`."""

    @staticmethod
    def kind_of(settings: Settings) -> Kind:
        """The kind for an adapter with these settings."""
        raise NotImplementedError

    def shapes(self, host: Any) -> Shapes:
        """The shape of one slot of each variable."""
        raise NotImplementedError

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        """An adapter's weights for one layer as a slot has them, padded."""
        raise NotImplementedError

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        """What a host makes of its input `x` and its own `y`, updated.

        Args:
            host: The layer.
            x: Its input.
            y: Its product, or its output.
            ids: Int32 tensor (rows,) of slots, or one slot () for all, or
                `OWN` where `variables` are gathered already.
        """
        raise NotImplementedError

    def apply_in_call(
        self, host: Any, y: Any, ids: Any, args: Any, kwargs: Any
    ) -> Any:
        """What a host makes of a whole call that gave `y`, updated."""
        x = surgery.first_argument(host._host_class, args, kwargs)
        return self.apply(host, x, y, ids)

    def gathered(self, ids: Any) -> dict[str, Any]:
        """The weights of each row, or of the one slot in force."""
        return {
            name: of_rows(variable, ids)
            for name, variable in self.variables.items()
        }


def filled_up(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values with zeros after them along each axis, up to a shape."""
    if values.shape == shape:
        return values
    filled = np.zeros(shape, values.dtype)
    filled[tuple(map(slice, values.shape))] = values
    return filled
