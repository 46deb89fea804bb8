"""What the rows of a batch do inside a base: every layer's calls, watched."""

import contextlib
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.model import surgery
from keras_lora.model.paths import Layers


@dataclass(frozen=True)
class Rows:
    """A tensor in short: mean and spread of each row, or of all of it.

    A tensor is made of rows where its first axis is a multiple of theirs.
    Whole activations of a large base would not fit into memory twice.
    """

    apart: bool
    numbers: np.ndarray

    def moved(self, other: "Rows") -> np.ndarray:
        """Which of the rows differ in another run."""
        if self.numbers.shape != other.numbers.shape:
            return np.ones(len(self.numbers), bool)
        same = np.isclose(
            self.numbers, other.numbers, rtol=1e-4, atol=1e-6, equal_nan=True
        )
        return ~same.all(axis=1)


@dataclass(frozen=True)
class Call:
    """One call of the layer at a path: its tensors, in short."""

    path: str
    inputs: list[Rows]
    outputs: list[Rows]


@dataclass(frozen=True)
class Unfit:
    """Layers that cannot have an adapter a row.

    Attributes:
        inputs: Paths of those whose input is the same for all rows, such as
            a table of positions; LoRA would read other rows' adapters there.
        outputs: Paths of those whose output is not made of rows.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]

    def problem(self, path: str, reads: tuple[str, ...]) -> list[str]:
        """Says why the layer at `path` is not fit for what a method reads."""
        without_rows = {"inputs": self.inputs, "outputs": self.outputs}
        return [
            f"{path}: its {name[:-1]} has no rows to tell adapters by"
            for name in reads
            if path in without_rows[name]
        ]


def in_short(nest: Any, rows: int) -> list[Rows]:
    """The tensors of a nest; those of a loop that is traced are left out."""
    found = []
    for value in keras.tree.flatten(nest):
        if value is None or isinstance(value, bool | int | float | str):
            continue
        try:
            array = np.asarray(ops.convert_to_numpy(value)).astype("float64")
        except Exception:
            continue
        apart = array.ndim > 0 and array.shape[0] % rows == 0 and array.size > 0
        flat = array.reshape(rows if apart else 1, -1)
        if flat.size:
            numbers = np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)
            found.append(Rows(apart, numbers))
    return found


def watch(
    run: Callable[[], Any], layers: Layers, rows: int
) -> tuple[list[Call], list[Rows]]:
    """Gives all calls of layers in a run of so many rows, and what came out."""
    calls: list[Call] = []

    def seen(path: str, inputs: Any, outputs: Any) -> None:
        calls.append(
            Call(path, in_short(inputs, rows), in_short(outputs, rows))
        )

    with contextlib.ExitStack() as watched:
        for path, layer in layers.items():
            show = functools.partial(seen, path)
            watched.callback(surgery.record_calls(layer, show))
        outputs = run()
    return calls, in_short(outputs, rows)


def others_moved(
    before: list[Rows], after: list[Rows], changed: np.ndarray
) -> bool:
    """Whether a row moved that was not changed, in any tensor of two runs."""
    for one, two in zip(before, after, strict=True):
        moved = one.moved(two)
        if (moved & ~changed if one.apart else moved).any():
            return True
    return False


def without_rows(before: list[Rows], after: list[Rows]) -> bool:
    """Whether the first tensor is the same for whatever rows there are."""
    if not before or before[0].apart:
        return False
    return not before[0].moved(after[0]).any()


def mixing_layer(
    before: list[Call],
    after: list[Call],
    changed: np.ndarray,
    hosts: Collection[str] = (),
) -> str | None:
    """The first layer whose outputs mix rows that its inputs keep apart.

    A layer within another returns first. One of the hosts of adapters whose
    input is not made of rows, such as with time first, mixes them by itself.
    """
    for one, two in zip(before, after, strict=True):
        if not others_moved(one.outputs, two.outputs, changed):
            continue
        if one.path in hosts and not all(rows.apart for rows in one.inputs):
            return one.path
        if not others_moved(one.inputs, two.inputs, changed):
            return one.path
    return None
