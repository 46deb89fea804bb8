"""Which adapter sits in which slot: least recently used ones make room."""

from collections import OrderedDict
from typing import Any

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.host import become_host, leave_bank, stack_class
from keras_lora.bank.memory import is_out_of_memory, stack_bytes, too_many_bytes
from keras_lora.bank.routing import RowWeights, Switch
from keras_lora.bank.rows import SlotRows
from keras_lora.errors import raise_if
from keras_lora.methods.lora import LORA, lora_class
from keras_lora.methods.stack import (
    ALL_BANDS,
    BASE_BAND,
    Kind,
    Stack,
    largest_of,
)
from keras_lora.model.paths import Layers
from keras_lora.targets import ALL_LINEAR, Targets, linear_targets


class Slots:
    """Slots on the layers of one base, `capacity` of them beside the base's.

    Callers hold the bank's lock.
    """

    def __init__(self, layers: Layers, capacity: int) -> None:
        self.layers = layers
        self.capacity = capacity
        self.switch = Switch()
        self.hosts: dict[str, Any] = {}
        self.resident: OrderedDict[BankAdapter, int] = OrderedDict()
        self.pinned: BankAdapter | None = None
        self.cache_hits = self.cache_misses = 0
        self._rows: dict[int, SlotRows] = {}

    @property
    def count(self) -> int:
        """Number of slots, the base's included."""
        return self.capacity + 1

    @property
    def band(self) -> int:
        """The highest band of all stacks; `BASE_BAND` where there are none."""
        bands = [
            stack.kind.band
            for host in self.hosts.values()
            for stack in host.stacks.values()
        ]
        return max(bands, default=BASE_BAND)

    def rows(self, band: int = ALL_BANDS) -> SlotRows:
        """What is in the slots of stacks up to a band.

        It compiles anew once stacks have grown.
        """
        if band not in self._rows:
            self._rows[band] = SlotRows(self.hosts, band)
        return self._rows[band]

    @property
    def room(self) -> int:
        """How many adapters one batch can use beside the pinned one."""
        return self.capacity - (self.pinned is not None)

    def provide(self, *kinds: dict[str, Kind]) -> int:
        """Adds or enlarges stacks so that adapters of these kinds fit.

        Either all of them or, where one fails, none.

        Returns:
            On how many layers something grew. Functions have to be traced
            anew then, and all slots are empty.
        """
        grown = []
        for path, kind in (pair for some in kinds for pair in some.items()):
            host = self.hosts.get(path)
            stack = host.stacks.get(kind.key) if host else None
            if stack is None or stack.kind.size < kind.size:
                grown.append((path, kind))
        paths = dict.fromkeys(path for path, _ in grown)
        fresh = [path for path in paths if path not in self.hosts]
        made: list[tuple[Any, Stack]] = []
        try:
            hosts = {
                path: become_host(self.layers[path], self.switch)
                for path in paths
            }
            raise_if("No slots were made", self._no_room(grown, hosts))
            for path, kind in grown:
                host = hosts[path]
                made.append((host, host.new_stack(kind, self.count)))
        except BaseException as error:
            for host, stack in made:
                host.drop_stack(stack)
            for path in fresh:
                leave_bank(self.layers[path])
            if is_out_of_memory(error):
                raise ValueError(
                    f"No slots were made: no memory for {self.count:,} on "
                    f"{len(paths)} layers; a lower `capacity` takes less"
                ) from error
            raise
        for host, stack in made:
            host.put_stack(stack)
        self.hosts.update({path: self.layers[path] for path in fresh})
        if grown:
            self._rows.clear()
            self.resident.clear()
            self.pin(self.pinned)
        return len(paths)

    def _no_room(
        self, grown: list[tuple[str, Kind]], hosts: Layers
    ) -> list[str]:
        """Says whether stacks would take too much beside those there are."""
        there = [
            (stack, host)
            for host in self.hosts.values()
            for stack in host.stacks.values()
        ]
        new = [
            (stack_class(kind.method)(kind, {}), hosts[path])
            for path, kind in grown
        ]
        needed = sum(
            stack_bytes(stack, host, self.count) for stack, host in there + new
        )
        return too_many_bytes(needed, self.count)

    def pin(self, adapter: BankAdapter | None) -> None:
        """Makes an adapter that of plain calls; its slot stays its own.

        Where this fails, what was pinned before is so again.
        """
        before, self.pinned = self.pinned, adapter
        if before is not None and before in self.resident:
            # Plain calls read its slot until the new one is whole.
            self.resident.move_to_end(before)
        try:
            slot = 0 if adapter is None else self.bring_in([adapter])[0]
            self.switch.set(slot)
        except BaseException:
            self.pinned = None
            self.switch.set(0)
            if before is not adapter:
                self.pin(before)
            raise

    def bring_in(self, adapters: list[BankAdapter]) -> list[int]:
        """Gives each of some adapters a slot; returns the slots.

        An adapter is known to be in its slot only once all of it is written.
        Those that were there already leave later than those that come now:
        what is asked for again is likelier to be asked for once more.
        """
        there = [a for a in adapters if a in self.resident]
        new = [a for a in dict.fromkeys(adapters) if a not in self.resident]
        places = dict(zip(self._free(len(new), there), new, strict=True))
        for slot, adapter in places.items():
            self.rows().write(slot, adapter.values)
            self.resident[adapter] = slot
        self.cache_hits += len(there)
        self.cache_misses += len(new)
        for adapter in there:
            self.resident.move_to_end(adapter)
        return [self.resident[adapter] for adapter in adapters]

    def weights_of(self, slots: list[int], band: int) -> RowWeights:
        """What stacks up to a band have in some slots: a tensor (rows, ...).

        Nothing of these slots may be in stacks above it.
        """
        return self.rows(band).read(slots)

    def _free(self, count: int, kept: list[BankAdapter]) -> list[int]:
        """So many slots that nothing sits in, after the eldest left."""
        taken = set(self.resident.values())
        free = [slot for slot in range(1, self.count) if slot not in taken]
        held = {*kept, self.pinned}
        eldest = [adapter for adapter in self.resident if adapter not in held]
        missing = max(0, count - len(free))
        if missing > len(eldest):
            names = ", ".join(adapter.name for adapter in self.resident)
            raise ValueError(
                f"No slot is free: capacity {self.capacity} is taken by {names}"
            )
        free += [self.resident.pop(adapter) for adapter in eldest[:missing]]
        return free[:count]

    def drop(self, adapter: BankAdapter) -> None:
        """Forgets where an adapter sits; the slot is free then."""
        self.resident.pop(adapter, None)

    def close(self) -> None:
        """Makes every host the plain layer it was."""
        for host in self.hosts.values():
            leave_bank(host)
        self.hosts.clear()
        self._rows.clear()
        self.resident.clear()
        self.pinned = None


def declared_kinds(
    layers: Layers, rank: int | None, targets: Targets | None
) -> list[dict[str, Kind]]:
    """The stacks that a bank makes room for at once, band by band."""
    if rank is None and targets is None:
        return []
    wanted = ALL_LINEAR if targets is None else targets
    paths, problems = linear_targets(layers, wanted, set(), lora_class)
    if targets is not None:
        raise_if("AdapterBank was not made", problems)
    largest = Kind(LORA.name, int(rank or 8))
    sizes = [largest_of(band) for band in range(largest.band)]
    return [
        {path: Kind(LORA.name, size) for path in paths}
        for size in [*sizes, largest.size]
    ]
