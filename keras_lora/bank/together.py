"""All tasks about the same rows, what they share run once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.batches import Adapters, padded, rows_of
from keras_lora.bank.inputs import IDS, with_ids
from keras_lora.bank.language import SpeakingBank
from keras_lora.bank.parts import AT_ONCE, Parts, Shared, grouped, parts_for
from keras_lora.bank.raw import (
    has_preprocessor,
    one_row_like,
    prepared,
    row_count,
)
from keras_lora.errors import raise_if
from keras_lora.settings import positive_int


@dataclass
class Together:
    """Adapters that share a part of the base.

    Attributes:
        shared: What they go together by.
        parts: The base cut in two for them; None where each runs all of it.
        adapters: The adapters.
    """

    shared: Shared
    parts: Parts | None
    adapters: list[BankAdapter]

    def is_cheaper_for(self, other: "Together") -> bool:
        """Whether others had better go along, with a cut that is earlier.

        By themselves they share more, but have to run that once more.
        """
        if self.parts is None or not other.shared <= self.shared:
            return False
        if other.parts is None:
            return True
        more = other.parts.saved - self.parts.saved
        return len(other.adapters) * more <= other.parts.saved


class TogetherBank(SpeakingBank):
    """A bank that runs what adapters share once."""

    _parts: dict[Shared, Parts | None]

    def _count(self, x: Any) -> int:
        """How many rows a call has."""
        return row_count(x, has_preprocessor(self._base))

    def _prepared(self, x: Any, rows: int) -> Any:
        """The base's inputs, made by its preprocessor if it has one."""
        if not has_preprocessor(self._base):
            return x
        # Its packer is made by the first call: one thread at a time.
        with self._preparing:
            some = x if rows else one_row_like(x)
            return prepared(self._base, some, rows or 1)

    def predict_all(
        self,
        x: Any,
        adapters: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> dict[str, Any]:
        """Runs the same rows with several adapters each: all tasks at once.

        What adapters share is run once: the whole base for ladders
        (`SideConfig`) and for adapters that are a head alone, the blocks
        before for adapters in the last ones. Adapters in the first blocks
        each run the base. Outputs are as of `predict` with one adapter after
        another.

        Args:
            x: As in `predict`.
            adapters: Their names; None for all that are loaded.
            batch_size: Rows in a forward pass, int above 0.

        Returns:
            By name, what `predict` gives for it.

        Raises:
            ValueError: A name is not loaded (all are listed with what is), or
                `x` is not what the base, or its preprocessor, takes.

        Example:

        ```python
        dense = keras.layers.Dense
        base = keras.Sequential([keras.Input((8,)), dense(8), dense(4)])
        for name in ("a", "b"):
            config = keras_lora.LoRAConfig(rank=2, targets=["dense_1"])
            keras_lora.inject(base, config)
            keras_lora.save_adapter(base, f"{name}.safetensors")
            keras_lora.eject(base)
        bank = keras_lora.AdapterBank(base)
        bank.load("a", "a.safetensors")
        bank.load("b", "b.safetensors")
        outputs = bank.predict_all(np.ones((3, 8), "float32"))
        ```
        """
        rows = self._count(x)
        problems = positive_int("batch_size", batch_size)
        if isinstance(adapters, str):
            adapters = [adapters]
        if not isinstance(adapters, list | tuple | None):
            problems.append(
                "`adapters` must be None or a list of names. "
                f"Received: adapters={adapters!r}"
            )
            adapters = ()
        with self._attached():
            names = list(self.names if adapters is None else adapters)
            raise_if("Nothing was predicted", problems + self._unknown(names))
            chosen = {name: self._adapters[name] for name in names}
        x = self._prepared(x, rows)
        if not rows:
            x = keras.tree.map_structure(blank_row, x)
        found: dict[str, Any] = {}
        for together in self._together(chosen):
            found |= self._predict_together(x, together, rows, batch_size)
        return {name: found[name] for name in names}

    def _together(self, chosen: Adapters) -> list[Together]:
        """Adapters with what they share: the fewest passes of the base."""
        found: list[Together] = []
        with self._attached():
            for shared, some in grouped(chosen).items():
                own = Together(shared, self._parts_of(shared), some)
                wider = next((t for t in found if t.is_cheaper_for(own)), None)
                if wider is None:
                    found.append(own)
                else:
                    wider.adapters += some
        return found

    def _predict_together(
        self, x: Any, together: Together, rows: int, batch_size: int
    ) -> dict[str, Any]:
        """The outputs of adapters that share a part of the base."""
        results: dict[str, list[Any]] = {a.name: [] for a in together.adapters}
        for start in range(0, max(1, rows), batch_size):
            count = max(1, min(batch_size, rows - start))
            size = padded(count, batch_size)
            taken = np.resize(np.arange(start, start + count), size)
            inputs = with_ids(rows_of(x, taken), None, self._inputs)
            del inputs[IDS]
            for adapter, features in self._run(together, inputs, size):
                outputs = adapter.outputs(rows_of(features, slice(count)))
                some = rows_of(outputs, slice(rows))
                results[adapter.name].append(some)
        return {
            name: keras.tree.map_structure(lambda *a: np.concatenate(a), *parts)
            for name, parts in results.items()
        }

    def _run(
        self, together: Together, inputs: Any, size: int
    ) -> list[tuple[BankAdapter, Any]]:
        """What the base gives for each adapter, for one batch of rows."""
        done: list[tuple[BankAdapter, Any]] = []
        with self._attached():
            parts, adapters = together.parts, together.adapters
            runs = in_runs(adapters, min(max(1, self._slots.room), AT_ONCE))
            several = len(runs) > 1
            features = parts.features(inputs) if parts and several else None
            for some in runs:
                slots = self._slots.bring_in(some)
                if parts is None:
                    outputs = self._each(some, slots, inputs, size)
                elif several:
                    outputs = parts.of_features(features, slots)
                else:
                    outputs = parts.of_inputs(inputs, slots)
                done += zip(some, outputs, strict=True)
            for adapter in adapters:
                if self._adapters.get(adapter.name) is not adapter:
                    self._slots.drop(adapter)
        return done

    def _each(
        self,
        adapters: list[BankAdapter],
        slots: list[int],
        inputs: Any,
        size: int,
    ) -> list[Any]:
        """All of the base for each adapter; once for those that leave it be."""
        found: dict[int, Any] = {}
        wanted = [
            slot if adapter.kinds else 0
            for adapter, slot in zip(adapters, slots, strict=True)
        ]
        for adapter, slot in zip(adapters, wanted, strict=True):
            if slot not in found:
                ids = np.full(size, slot, "int32")
                model = self._models.of(adapter.band)
                found[slot] = model.predict_on_batch({**inputs, IDS: ids})
        return [found[slot] for slot in wanted]

    def _parts_of(self, shared: Shared) -> Parts | None:
        """The base cut in two for adapters, as long as their stacks stay."""
        if not shared:
            return None
        known = self.__dict__.setdefault("_parts", {})
        parts = known.get(shared)
        if shared not in known or (parts and parts.is_stale()):
            hosts = self._slots.hosts
            inputs = with_ids(self._inputs, None)
            del inputs[IDS]
            known[shared] = parts_for(
                self._base,
                self._inputs,
                inputs,
                hosts,
                shared,
                self._models.whole,
            )
        return known[shared]

    def detach(self) -> Any:
        base = super().detach()
        self.__dict__.pop("_parts", None)
        return base


def blank_row(values: Any) -> np.ndarray:
    """A row of zeros like those of an array without any."""
    return np.zeros((1, *np.shape(values)[1:]), np.asarray(values).dtype)


def in_runs(adapters: list[BankAdapter], room: int) -> list[list[BankAdapter]]:
    """Adapters, as many at a time as there is room for."""
    return [
        adapters[start : start + room]
        for start in range(0, len(adapters), room)
    ]
