"""Which adapter a row gets: the ids in force, and bad ids turned into NaN."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_lora.methods.stack import ALL_BANDS, OWN, Stack
from keras_lora.model import surgery
from keras_lora.model.compiled import Hold
from keras_lora.model.surgery import Layer

RowWeights: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""By a host's path, a stack's key and a name: a tensor (rows, ...)."""


class _Scope(threading.local):
    ids: Any = None
    band: int = ALL_BANDS
    beside: bool = True
    stacks: dict[int, dict[str, Stack]] | None = None


_SCOPE = _Scope()


@contextlib.contextmanager
def route(
    ids: Any, band: int = ALL_BANDS, beside: bool = True
) -> Iterator[None]:
    """Puts slots in force for the layers called inside, in this thread.

    The layers may sit in nested or subclassed models that pass nothing on.
    The ids are int32 (rows,), each a valid slot, or one () for all rows.
    Nothing of them is in stacks above the band, or, where `beside` is False,
    in those of ladders beside the base: these are not read.
    """
    before = _SCOPE.ids, _SCOPE.band, _SCOPE.beside
    _SCOPE.ids, _SCOPE.band, _SCOPE.beside = ids, band, beside
    try:
        yield
    finally:
        _SCOPE.ids, _SCOPE.band, _SCOPE.beside = before


@contextlib.contextmanager
def serve_rows(hosts: dict[str, Any], weights: RowWeights) -> Iterator[None]:
    """Gives hosts the rows' own weights for the calls inside, in this thread.

    What is in the slots, or becomes of them meanwhile, does not matter then.
    """
    stacks = {
        id(hosts[path]): {
            key: replace(hosts[path].stacks[key], variables=dict(mine))
            for key, mine in kinds.items()
        }
        for path, kinds in weights.items()
    }
    before = _SCOPE.ids, _SCOPE.stacks
    _SCOPE.ids, _SCOPE.stacks = OWN, stacks
    try:
        yield
    finally:
        _SCOPE.ids, _SCOPE.stacks = before


def stacks_in_force(host: Layer) -> dict[str, Stack] | None:
    """The stacks of the rows' own weights, where they are in force."""
    found = _SCOPE.stacks
    return None if found is None else found.get(id(host), {})


def ids_in_force() -> Any:
    """The innermost scope's ids, or None outside of any."""
    return _SCOPE.ids


def is_read(stack: Stack) -> bool:
    """Whether a stack is read where a call is now."""
    return stack.kind.band <= _SCOPE.band and _SCOPE.beside >= stack.beside


class Switch:
    """The slot of plain calls of the base, for the thread that holds the bank.

    What is compiled reads it as a value, so nothing is traced again. Layers
    hold it where Keras keeps seeds, so that backends which trace without side
    effects see its state.
    """

    def __init__(self) -> None:
        self.state = keras.Variable(
            0, dtype="int32", trainable=False, name="adapter_in_use"
        )
        self._slot, self._thread = 0, 0

    def set(self, slot: int) -> None:
        """Sets the slot of this thread's calls; 0 for the base."""
        self.state.assign(slot)
        self._slot, self._thread = slot, threading.get_ident()

    def ids(self, x: Any) -> Any:
        """The slot of a plain call on `x`, or None for the base.

        A call that runs at once knows its thread. One that is traced has to
        read the slot each time it runs: the bank is held for so long.
        """
        if surgery.is_traced(x):
            return ops.convert_to_tensor(self.state)
        if not self._slot or self._thread != threading.get_ident():
            return None
        return ops.convert_to_tensor(self._slot, "int32")


class Routed(keras.layers.Layer):
    """Runs a base with a slot for each row.

    A gather reads some slot for any id, even one out of range: such rows are
    clamped on the way in and turned into NaN on the way out.

    Args:
        base: The base.
        slots: Tells how many slots there are.
        hold: What keeps the slots from being written while it runs eagerly;
            who compiles it takes care where that is run.
        band: Up to which band it reads stacks, or `BASE_BAND`.
        **kwargs: As for any layer.
    """

    def __init__(
        self,
        base: Layer,
        slots: Callable[[], int],
        hold: Hold = contextlib.nullcontext,
        band: int = ALL_BANDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base = base
        self.slots = slots
        self.hold, self.band = hold, band

    def compute_output_spec(self, inputs: Any, ids: Any, **_: Any) -> Any:
        return self.base.compute_output_spec(inputs)

    def call(self, inputs: Any, ids: Any) -> Any:
        ids = ops.cast(ids, "int32")
        valid = ops.logical_and(ids >= 0, ids < self.slots())
        # Who traces may hold what another one, who holds the bank, waits for.
        hold = contextlib.nullcontext if surgery.is_traced(ids) else self.hold
        with hold(), route(ops.where(valid, ids, 0), self.band):
            outputs = self.base(inputs, training=False)
        return keras.tree.map_structure(lambda y: only(valid, y), outputs)


def only(valid: Any, y: Any) -> Any:
    """`y` with NaN in the rows that are not valid."""
    shape = (-1,) + (1,) * (len(y.shape) - 1)
    nothing = ops.cast(float("nan"), y.dtype)
    return ops.where(ops.reshape(valid, shape), y, nothing)
