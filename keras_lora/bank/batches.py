"""How the rows of a call are cut into forward passes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_lora.bank.adapter import BankAdapter, rows_of

Names = str | None | Sequence[str | None]


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass, and the adapter of each."""

    rows: list[int]
    names: list[str | None]

    def cut(self, batch_size: int, room: int) -> list["Batch"]:
        """The batch in parts, if it holds more adapters than `room`."""
        return [
            Batch([self.rows[place] for place in part.rows], part.names)
            for part in cut_rows(self.names, batch_size, room)
        ]


def cut_rows(
    names: Sequence[str | None],
    batch_size: int,
    room: int,
    resident: Collection[str] = (),
) -> list[Batch]:
    """Cuts rows into batches with at most `room` adapters in each.

    Rows keep their order where all adapters fit at once. Where they do not,
    rows of one adapter go together, so that each is brought in once, and
    those that are `resident` go first, before others take their slots.
    """
    room = max(1, room)
    order = list(range(len(names)))
    distinct = list(dict.fromkeys(n for n in names if n is not None))
    if len(distinct) > room:
        distinct.sort(key=lambda name: name not in resident)
        place = {name: number for number, name in enumerate(distinct)}
        order.sort(key=lambda row: place.get(names[row] or "", -1))
    batches: list[Batch] = []
    rows: list[int] = []
    seen: set[str] = set()
    for row in order:
        name = names[row]
        new = name is not None and name not in seen
        if len(rows) == batch_size or (new and len(seen) == room):
            batches.append(Batch(rows, [names[r] for r in rows]))
            rows, seen = [], set()
        rows.append(row)
        if name is not None:
            seen.add(name)
    if rows:
        batches.append(Batch(rows, [names[r] for r in rows]))
    return batches


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
            "`adapter` must be None, a name, or a name or None a row. "
            f"Received: adapter={adapter!r}"
        ) from None


def spread(
    features: Any,
    batch: Batch,
    chosen: dict[str, BankAdapter],
    results: list[Any],
) -> None:
    """Puts each row's own output where the row stood in the call."""
    outputs: dict[str | None, Any] = {None: features}
    for place, (row, name) in enumerate(
        zip(batch.rows, batch.names, strict=True)
    ):
        if name is not None and name not in outputs:
            outputs[name] = chosen[name].outputs(features)
        results[row] = rows_of(outputs[name], place)
