"""Blocks with a stage of a ladder: the block itself, and what is beside it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras

from keras_lora.methods.side import (
    OWN,
    SideStage,
    is_last,
    stream_of,
    what_it_sees,
    with_stream,
)
from keras_lora.model import graphs, surgery
from keras_lora.model.compiled import HOST

Apart: TypeAlias = Callable[[Any, Any, dict[str, Any]], Any]
"""Calls an operation in several, or gives None: it is called as it is."""


def has_stage(operation: Any) -> bool:
    """Whether an operation is a block with a stage beside it."""
    return isinstance(operation, SideStage) and bool(operation.adapter_weights)


def stage_apart(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Calls a block that trains a stage as it is, and then the stage alone."""
    if not has_stage(operation):
        return None
    place = Place(OWN, operation.adapter_settings["stage"])
    return called_apart(operation, TrainedStage(operation), place, args, kwargs)


@dataclass(frozen=True)
class Place:
    """Where a stage is.

    Attributes:
        stream: What the stream of its ladder is called.
        stage: Its number there.
    """

    stream: str
    stage: int


def called_apart(
    host: Any, stage: Any, place: Place, args: Any, kwargs: dict[str, Any]
) -> Any:
    """Calls a block as it is without a stage, and then the stage alone."""
    x, seen = what_it_sees(host._host_class, args, kwargs)
    stream = stream_of(x, place.stream, place.stage, host.name)
    outputs = bare(host)(*args, **kwargs)
    several = isinstance(outputs, tuple | list)
    y = outputs[0] if several else outputs
    found = stage(y, stream, *seen)
    if stage.last:
        y = graphs.keep_mask(y, found)
    else:
        y = with_stream(y, place.stream, place.stage, found)
    return type(outputs)([y, *outputs[1:]]) if several else y


def bare(host: Any) -> Any:
    """A block as it is without its stage: the same weights and sublayers."""
    hidden = surgery.without(host, host.adapter_weights.values())
    twin = surgery.view(host, host._host_class, **hidden)
    surgery.forget_calls(twin)
    twin.__dict__[HOST] = host
    return twin


class Stage(keras.layers.Layer):
    """A stage of a ladder as a layer of its own, with its host's weights.

    The host is no part of it: nothing of the base comes along.

    Args:
        host: The block.
        weights: The stage's variables.
        width: Of the stream.
        last: Whether the stage is the last one.
    """

    def __init__(
        self, host: Any, weights: Iterable[Any], width: int, last: bool
    ) -> None:
        super().__init__(name=f"{host.name}_side", autocast=False)
        self.__dict__[HOST] = host
        self.own = list(weights)
        self.width, self.last = width, last
        self.supports_masking = True
        self.built = True

    @property
    def host(self) -> Any:
        """The block."""
        return self.__dict__[HOST]

    def compute_output_spec(self, y: Any, *_: Any, **__: Any) -> Any:
        """The shape of what `call` gives."""
        if self.last:
            return keras.KerasTensor(y.shape, y.dtype)
        return keras.KerasTensor((*y.shape[:-1], self.width), "float32")

    def call(
        self,
        y: Any,
        stream: Any = None,
        padding: Any = None,
        attention: Any = None,
    ) -> Any:
        """The stream, or the block's output with what the ladder adds."""
        raise NotImplementedError


class TrainedStage(Stage):
    """The stage that trains beside a block of an adapted base."""

    def __init__(self, host: Any) -> None:
        settings = host.adapter_settings
        weights = host.adapter_weights.values()
        super().__init__(host, weights, settings["width"], is_last(settings))
        self.own_dropout = host.__dict__.get("_adapter_dropout")

    def call(
        self,
        y: Any,
        stream: Any = None,
        padding: Any = None,
        attention: Any = None,
    ) -> Any:
        host = self.host
        if not has_stage(host) or not self.is_of(host):
            raise ValueError(
                f"Layer {host.name!r} has another ladder now, or none: `split` "
                "the model again"
            )
        stream = host.stream_after(y, stream, (padding, attention))
        return host.joined(y, stream) if self.last else stream

    def is_of(self, host: Any) -> bool:
        """Whether the host still has the weights that this layer trains."""
        return self.own[0] is next(iter(host.adapter_weights.values()))
