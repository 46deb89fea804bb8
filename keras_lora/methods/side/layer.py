"""Blocks of a base with the stages of a ladder beside them."""

import inspect
from typing import Any, ClassVar, TypeAlias

from keras import ops

from keras_lora.methods.host import AdapterHost, Specs
from keras_lora.methods.side.ladder import (
    Shapes,
    StageInitializer,
    Weights,
    climb,
    join,
    packed_size,
    shapes,
    unpacked,
)
from keras_lora.model import graphs, surgery

Seen: TypeAlias = tuple[Any, Any]
"""The masks that a block is given, of padding and of attention, or None."""
OWN = ""
"""The stream of a block's own stage, among those beside a tensor."""


class SideStage(AdapterHost):
    """A block whose output one stage of a ladder reads.

    The stream goes from block to block beside the tensor that they hand on.
    The last stage adds to the block's output; the others leave it as it is.
    """

    adapter_settings: dict[str, Any]
    neutral_weights: ClassVar[tuple[str, ...]] = ("stage",)
    not_mergeable: ClassVar[str] = (
        "what stands beside the base cannot be folded into its kernels"
    )

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        features, width = settings["features"], settings["width"]
        start = StageInitializer(features, width, is_last(settings))
        return {"stage": ((packed_size(stage_shapes(settings)),), start)}

    @property
    def stage_weights(self) -> Weights:
        """The stage's weights by name."""
        sizes = stage_shapes(self.adapter_settings)
        stage = ops.convert_to_tensor(self.adapter_weights["stage"])
        return unpacked(stage, sizes)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's: symbolic calls hand on nothing beside a tensor."""
        plain = surgery.view(self, self._host_class)
        return plain.compute_output_spec(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        # Attention takes the mask off its input: this one comes first.
        x, seen = what_it_sees(self._host_class, args, kwargs)
        y = super().call(*args, **kwargs)  # type: ignore[misc]
        return self._beside(y, x, seen)

    def _beside(self, y: Any, x: Any, seen: Seen) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self._beside(y[0], x, seen), *y[1:]])
        stream = stream_of(x, OWN, self.adapter_settings["stage"], self.name)
        return self.climbed(y, stream, seen)

    def climbed(self, y: Any, stream: Any, seen: Seen) -> Any:
        """The block's output `y`, with what goes on beside it."""
        stream = self.stream_after(y, stream, seen)
        if is_last(self.adapter_settings):
            return self.joined(y, stream)
        return with_stream(y, OWN, self.adapter_settings["stage"], stream)

    def stream_after(self, y: Any, stream: Any, seen: Seen) -> Any:
        """The stream, once this stage has taken the block's output in."""
        w, heads = self.stage_weights, self.adapter_settings["heads"]
        y = ops.stop_gradient(ops.cast(y, "float32"))
        return climb(y, stream, visible(*seen), w, heads, self.dropped)

    def joined(self, y: Any, stream: Any) -> Any:
        """The block's output with what the ladder adds to it."""
        both = join(ops.cast(y, "float32"), stream, self.stage_weights)
        return graphs.keep_mask(y, ops.cast(both, y.dtype))


def stage_shapes(settings: dict[str, Any]) -> Shapes:
    """The shape of each weight of a stage, by name."""
    features, width = settings["features"], settings["width"]
    return shapes(features, width, is_last(settings))


def is_last(settings: dict[str, Any]) -> bool:
    """Whether a stage has the way back into the base."""
    return bool(settings["stage"] == settings["stages"] - 1)


def stream_of(x: Any, key: str, stage: int, name: str) -> Any:
    """What the stage before handed on beside a block's input.

    Raises:
        ValueError: There is nothing: the block was given something else.
    """
    if not stage:
        return None
    streams = graphs.side_of(x) or {}
    if (key, stage - 1) not in streams:
        raise ValueError(
            f"Layer {name!r} has stage {stage} of a ladder, and its input does "
            "not come straight from the block with the stage before: the base "
            "was run in parts, or does something to what its blocks give. "
            "`split` cuts such a model in two"
        )
    return streams[key, stage - 1]


def with_stream(y: Any, key: str, stage: int, stream: Any) -> Any:
    """`y`, a tensor of its own, with what a stage gives beside it.

    A bank's block may have stages of several ladders: one may be the first of
    its own, another the second.
    """
    graphs.put_side(y, {**(graphs.side_of(y) or {}), (key, stage): stream})
    return y


def what_it_sees(host: type, args: Any, kwargs: Any) -> tuple[Any, Seen]:
    """A block's first input, and what it was told of what it may see.

    The latter as it came: `split` hands on what other layers read, too. The
    padding is that on the input where no argument says it.
    """
    bound = inspect.signature(host.call).bind(None, *args, **kwargs)  # type: ignore[attr-defined]
    _, x, *_ = bound.arguments.values()
    given = bound.arguments
    padding = given.get("padding_mask", given.get("mask"))
    if padding is None:
        padding = graphs.mask_of(x)
    return x, (padding, given.get("attention_mask"))


def visible(padding: Any, attention: Any) -> Any:
    """What each position may see; fits (batch, length, length), or is None."""
    found = None
    if padding is not None:
        found = ops.expand_dims(ops.cast(padding, "bool"), 1)
    if attention is not None:
        attention = ops.cast(attention, "bool")
        both = found is not None
        found = ops.logical_and(found, attention) if both else attention
    return found
