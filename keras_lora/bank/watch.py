"""What the rows of a batch do inside a base: every layer's calls, watched."""

import contextlib
import functools
import weakref
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
    empty: bool
    """Whether it gives a tensor without any values."""


@dataclass(frozen=True)
class Unfit:
    """Layers that cannot have an adapter for each row.

    Attributes:
        inputs: Paths of those whose input is the same for all rows, such as
            a table of positions; LoRA would read other rows' adapters there.
        outputs: Paths of those whose output is not made of rows.
        masked: Which of the base's outputs carry a Keras mask.
        kernels: Paths of those whose kernel the base reads without calling
            them, such as blocks that multiply by it themselves.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    masked: frozenset[int]
    kernels: frozenset[str] = frozenset()

    def problem(self, path: str, reads: tuple[str, ...]) -> list[str]:
        """Says why the layer at `path` is not fit for what a method reads."""
        without_rows = {
            "inputs": (self.inputs, "its input has no rows"),
            "outputs": (self.outputs, "its output has no rows"),
            "kernel": (
                self.kernels,
                "the base reads its kernel without calling it: no rows",
            ),
        }
        return [
            f"{path}: {why} to tell adapters by"
            for name, (paths, why) in without_rows.items()
            if name in reads and path in paths
        ]


class InShort:
    """The tensors of nests in short; each is looked at once.

    What one layer gives is what the next one takes.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._known: dict[int, tuple[Any, Rows | None]] = {}

    def __call__(self, nest: Any) -> list[Rows]:
        """Those of a loop that is traced, and empty ones, are left out."""
        values = [
            value
            for value in keras.tree.flatten(nest)
            if not isinstance(value, bool | int | float | str | None)
        ]
        found = [self._of(value) for value in values]
        return [rows for rows in found if rows is not None]

    def _of(self, value: Any) -> Rows | None:
        alive, found = self._known.get(id(value), (None, None))
        if alive is None or alive() is not value:
            found = self._made(value)
            with contextlib.suppress(TypeError):  # such as a number of numpy's
                self._known[id(value)] = weakref.ref(value), found
        return found

    def _made(self, value: Any) -> Rows | None:
        try:
            array = np.asarray(ops.convert_to_numpy(value)).astype("float64")
        except Exception:
            return None
        if not array.size:
            return None
        apart = array.ndim > 0 and array.shape[0] % self.rows == 0
        flat = array.reshape(self.rows if apart else 1, -1)
        numbers = np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)
        return Rows(apart, numbers)


def watch(
    run: Callable[[], Any], layers: Layers, rows: int
) -> tuple[list[Call], list[Rows], Any]:
    """Gives all calls of layers in a run of so many rows, and what came out.

    Returns:
        The calls, and the outputs, in short and as they are.
    """
    calls: list[Call] = []
    in_short = InShort(rows)

    def seen(path: str, inputs: Any, outputs: Any) -> None:
        tensors = keras.tree.flatten(outputs)
        empty = any(0 in tuple(getattr(t, "shape", ())) for t in tensors)
        calls.append(Call(path, in_short(inputs), in_short(outputs), empty))

    with contextlib.ExitStack() as watched:
        for path, layer in layers.items():
            show = functools.partial(seen, path)
            watched.callback(surgery.record_calls(layer, show))
        outputs = run()
    return calls, in_short(outputs), outputs


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
