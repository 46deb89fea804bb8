"""Blocks with a stage of a ladder: the block itself, and what is beside it."""

from typing import Any

import keras

from keras_lora.methods.side import (
    OWN,
    SideStage,
    is_last,
    stream_of,
    what_it_sees,
    with_stream,
)
from keras_lora.model import surgery
from keras_lora.model.compiled import HOST


def has_stage(operation: Any) -> bool:
    """Whether an operation is a block with a stage beside it."""
    return isinstance(operation, SideStage) and bool(operation.adapter_weights)


def in_two_calls(host: Any, args: Any, kwargs: Any) -> Any:
    """Calls a block as it is without its stage, and then the stage alone."""
    x, visible = what_it_sees(host._host_class, args, kwargs)
    stage = host.adapter_settings["stage"]
    stream = stream_of(x, OWN, stage, host.name)
    outputs = bare(host)(*args, **kwargs)
    several = isinstance(outputs, tuple | list)
    y = outputs[0] if several else outputs
    found = Stage(host)(y, stream, visible)
    if is_last(host.adapter_settings):
        y = surgery.keep_mask(y, found)
    else:
        y = with_stream(y, OWN, found)
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
    """

    def __init__(self, host: Any) -> None:
        super().__init__(name=f"{host.name}_side", dtype="float32")
        self.__dict__[HOST] = host
        self.own = list(host.adapter_weights.values())
        self.own_dropout = host.__dict__.get("_adapter_dropout")
        self.supports_masking = True
        self.built = True

    def call(self, y: Any, stream: Any = None, visible: Any = None) -> Any:
        """The stream, or the block's output with what the ladder adds."""
        host = self.__dict__[HOST]
        if not has_stage(host):
            raise ValueError(
                f"Layer {host.name!r} has no ladder any more: `split` the "
                "model again"
            )
        stream = host.stream_after(y, stream, visible)
        if is_last(host.adapter_settings):
            return host.joined(y, stream)
        return stream
