"""One adapter after another on what they share, and ladders at once."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_lora.bank.host import BankHost
from keras_lora.bank.routing import route
from keras_lora.methods.stack import BASE_BAND
from keras_lora.model import graphs
from keras_lora.model.surgery import Layer
from keras_lora.split import Stage


class Bare(keras.layers.Layer):
    """A part of a served base, run as it is without any adapters.

    A mask that is read after it is among its outputs; none is beside them.
    """

    def __init__(self, part: Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part = part

    def compute_output_spec(self, inputs: Any, **_: Any) -> Any:
        outputs = self.part.compute_output_spec(inputs)
        return keras.tree.map_structure(graphs.without_mask, outputs)

    def call(self, inputs: Any) -> Any:
        with route(ops.zeros((), "int32"), BASE_BAND):
            outputs = self.part(inputs, training=False)
        return keras.tree.map_structure(graphs.without_mask, outputs)


class Climb:
    """Ladders of several slots that climb at once, in one product a kernel.

    Args:
        slots: Their slots, int32 (ladders,).
    """

    def __init__(self, slots: Any) -> None:
        self._slots = ops.expand_dims(slots, 1)  # an axis for the texts
        self._found: dict[int, Any] = {}
        self.number = 0
        """Of the ladder whose outputs are asked for."""

    def after(self, stage: Layer, climbed: Callable[[Any], Any]) -> Any:
        """What a stage gives for all ladders; it is run for the first."""
        if id(stage) not in self._found:
            self._found[id(stage)] = climbed(self._slots)
        return self._found[id(stage)]


class _Now(threading.local):
    climb: Climb | None = None


_NOW = _Now()


@contextlib.contextmanager
def climbing(climb: Climb) -> Iterator[Climb]:
    """Lets the stages called inside climb at once, in this thread."""
    before, _NOW.climb = _NOW.climb, climb
    try:
        yield climb
    finally:
        _NOW.climb = before


class Fan(keras.layers.Layer):
    """The rest of a served base, run with one adapter after another.

    Each of the outputs has an axis of adapters in front.

    Args:
        part: The rest.
        count: Of adapters.
        at_once: Whether all that they adapt are stages beside it, so that
            each stage reads the same for all of them.
    """

    def __init__(
        self, part: Layer, count: int, at_once: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.part, self.count, self.at_once = part, count, at_once

    def compute_output_spec(self, features: Any, slots: Any, **_: Any) -> Any:
        return keras.tree.map_structure(
            lambda y: keras.KerasTensor((self.count, *y.shape), y.dtype),
            self.part.compute_output_spec(features),
        )

    def call(self, features: Any, slots: Any) -> Any:
        found = []
        climb = Climb(slots)
        scope = climbing(climb) if self.at_once else contextlib.nullcontext()
        with scope:
            for number in range(self.count):
                climb.number = number
                with route(slots[number], beside=False):
                    found.append(self.part(features, training=False))
        return keras.tree.map_structure(lambda *y: ops.stack(y), *found)


class StackedStage(Stage):
    """The stages that a bank's stack has beside a block."""

    def __init__(self, host: BankHost, stack: Any) -> None:
        kind = stack.kind
        super().__init__(host, stack.variables.values(), kind.size, kind.last)
        self.__dict__["stack"] = stack

    def is_stale(self) -> bool:
        """Whether the host has another stack in the place of this one."""
        stack = self.__dict__["stack"]
        return self.host.__dict__["_stacks"].get(stack.kind.key) is not stack

    def call(
        self,
        y: Any,
        stream: Any = None,
        padding: Any = None,
        attention: Any = None,
    ) -> Any:
        stack, climb = self.__dict__["stack"], _NOW.climb

        def climbed(ids: Any) -> Any:
            after = stack.stream_after(y, stream, (padding, attention), ids)
            return stack.joined(y, after, ids) if self.last else after

        if climb is None:
            return climbed(self.host._ids(y))
        found = climb.after(self, climbed)
        if not self.last:
            return found
        return graphs.keep_mask(y, found[climb.number])
