"""What sits in the slots of all stacks: read for rows, written for one slot."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from keras import ops

from keras_lora.bank.routing import RowWeights
from keras_lora.methods.stack import ALL_BANDS, Arrays, Stack
from keras_lora.model.stacked import Stacked

Values: TypeAlias = Callable[[str, Any, Stack], Arrays | None]
"""What goes into a slot of a stack, by the host's path and the host."""
Place: TypeAlias = tuple[str, Any, Stack]


class SlotRows:
    """The stacks of some hosts, as long as no stack is added or replaced.

    Args:
        hosts: Hosts by path.
        band: Up to which band stacks count.
    """

    def __init__(self, hosts: dict[str, Any], band: int = ALL_BANDS) -> None:
        places = [
            (path, host, stack)
            for path, host in hosts.items()
            for stack in host.stacks.values()
            if stack.kind.band <= band
        ]
        # Stacks that are read as a whole are written so, each by itself: most
        # adapters leave them alone.
        apart = [[place] for place in places if place[1].read_whole]
        joint = [place for place in places if not place[1].read_whole]
        self._groups = [Group(group) for group in (joint, *apart) if group]

    def write(self, slot: int, values: Values) -> None:
        """Sets a slot of all stacks, to nothing where nothing is."""
        for group in self._groups:
            group.write(slot, values)

    def read(self, slots: list[int]) -> RowWeights:
        """What is in some slots, gathered: a tensor (rows, ...) each."""
        ids = ops.convert_to_tensor(slots, "int32")
        found: RowWeights = {}
        for group in self._groups:
            group.read_into(found, ids)
        return found


class Group:
    """Stacks whose slots are written in one call."""

    def __init__(self, places: list[Place]) -> None:
        self.places = places
        self.stacked = Stacked(
            {
                (path, stack.kind.key, name): variable
                for path, _, stack in places
                for name, variable in stack.variables.items()
            },
            whole=[
                (path, stack.kind.key, name)
                for path, host, stack in places
                for name in host.read_whole
            ],
        )

    def write(self, slot: int, values: Values) -> None:
        """Sets a slot; where it is empty and stays so, nothing is done."""
        found = [values(*place) for place in self.places]
        if not any(
            mine is not None or slot in stack.used
            for mine, (_, _, stack) in zip(found, self.places, strict=True)
        ):
            return
        arrays = []
        for mine, (_, _, stack) in zip(found, self.places, strict=True):
            if mine is not None:
                stack.used.add(slot)
            arrays += [
                np.zeros(variable.shape[1:], "float32")
                if mine is None
                else np.asarray(mine[name], "float32")
                for name, variable in stack.variables.items()
            ]
        self.stacked.write(slot, arrays)
        for mine, (_, _, stack) in zip(found, self.places, strict=True):
            if mine is None:
                stack.used.discard(slot)

    def read_into(self, weights: RowWeights, ids: Any) -> None:
        """Adds what is in some slots."""
        for (path, key, name), value in self.stacked.read(ids).items():
            weights.setdefault(path, {}).setdefault(key, {})[name] = value
