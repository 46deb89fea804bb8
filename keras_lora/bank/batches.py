"""How the rows of a call are cut into forward passes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lora.bank.adapter import BankAdapter
from keras_lora.methods.stack import BASE_BAND

Names = str | None | Sequence[str | None]
Adapters = dict[str, BankAdapter]


@dataclass(frozen=True)
class Batch:
    """Rows of a call, and the adapter of each."""

    rows: list[int]
    names: list[str | None]

    def apart(self, chosen: Adapters) -> list["Batch"]:
        """Rows whose adapters are of one band each, the lowest first.

        A wide adapter costs its own rows only then. Rows of the base go with
        the narrowest.
        """
        bands = {name: adapter.band for name, adapter in chosen.items()}
        low, *others = sorted({*bands.values()} - {BASE_BAND}) or [BASE_BAND]
        if not others:
            return [self]
        parts = {band: Batch([], []) for band in (low, *others)}
        for row, name in zip(self.rows, self.names, strict=True):
            band = low if name is None else max(low, bands[name])
            parts[band].rows.append(row)
            parts[band].names.append(name)
        return [part for part in parts.values() if part.rows]

    def cut(
        self, batch_size: int, room: int, resident: Collection[str] = ()
    ) -> list["Batch"]:
        """Parts for one forward pass each, with at most `room` adapters.

        Rows keep their order where all adapters fit at once. Where they do
        not, rows of one adapter go together, so that each is brought in once,
        and those that are `resident` go first, before others take their slots.
        """
        room = max(1, room)
        rows = list(zip(self.rows, self.names, strict=True))
        distinct = list(dict.fromkeys(n for n in self.names if n is not None))
        if len(distinct) > room:
            distinct.sort(key=lambda name: name not in resident)
            place = {name: number for number, name in enumerate(distinct)}
            rows.sort(key=lambda row: place.get(row[1] or "", -1))
        parts: list[Batch] = []
        seen: set[str] = set()
        for row, name in rows:
            new = name is not None and name not in seen
            full = not parts or len(parts[-1].rows) == batch_size
            if full or (new and len(seen) == room):
                parts.append(Batch([], []))
                seen = set()
            parts[-1].rows.append(row)
            parts[-1].names.append(name)
            if name is not None:
                seen.add(name)
        return parts


def band_of(names: Collection[str | None], chosen: Adapters) -> int:
    """Up to which band the rows of adapters read stacks."""
    bands = [chosen[name].band for name in {*names} if name is not None]
    return max(bands, default=BASE_BAND)


def padded(count: int, batch_size: int) -> int:
    """Rows that a pass is filled up to.

    JAX traces each size anew, so it sees powers of two only.
    """
    if keras.backend.backend() != "jax" or count >= batch_size:
        return count
    return min(batch_size, 1 << (count - 1).bit_length())


def names_of_rows(adapter: Any, rows: int) -> list[Any]:
    """The adapter of each row, as it was given."""
    if adapter is None or isinstance(adapter, str):
        return [adapter] * rows
    try:
        return list(adapter)
    except TypeError:
        raise ValueError(
            "`adapter` must be None, a name, or a name or None for each row. "
            f"Received: adapter={adapter!r}"
        ) from None


def spread(
    features: Any, batch: Batch, chosen: Adapters, results: list[Any]
) -> None:
    """Puts each row's own output where the row stood in the call."""
    outputs: dict[str | None, Any] = {None: features}
    rows = zip(batch.rows, batch.names, strict=True)
    for place, (row, name) in enumerate(rows):
        if name is not None and name not in outputs:
            outputs[name] = chosen[name].outputs(features)
        results[row] = rows_of(outputs[name], place)


def rows_of(nest: Any, index: Any) -> Any:
    """Some rows of arrays in a nest."""
    return keras.tree.map_structure(lambda a: np.asarray(a)[index], nest)
