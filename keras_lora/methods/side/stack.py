"""Ladders of many tasks, stacked: each row climbs its own."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from keras_lora.methods.side.ladder import (
    Weights,
    climb,
    join,
    packed_size,
    unpacked,
)
from keras_lora.methods.side.layer import (
    Seen,
    stage_shapes,
    stream_of,
    visible,
    what_it_sees,
    with_stream,
)
from keras_lora.methods.stack import Arrays, Kind, Settings, Shapes, Stack
from keras_lora.model import graphs


@dataclass(frozen=True)
class SideKind(Kind):
    """What stages must share to be stacked on one block.

    A stage normalizes over its width, so none is padded to another's.

    Attributes:
        features: Width of what they read.
        heads: Of their attention.
        stage: Their number in the ladder.
        stages: How many the ladder has.
    """

    features: int
    heads: int
    stage: int
    stages: int

    @property
    def key(self) -> str:
        parts = self.size, self.heads, self.stage, self.stages
        return ":".join(map(str, (self.method, *parts)))

    @property
    def last(self) -> bool:
        """Whether they have the way back into the base."""
        return self.stage == self.stages - 1

    @property
    def stream(self) -> str:
        """What the stream is called that all stages of such ladders share."""
        return f"{self.size}:{self.heads}:{self.stages}"


class SideStack(Stack):
    """Stages of ladders, one vector each."""

    kind: SideKind
    unit = "width"
    before_activation = False
    beside = True
    reads: ClassVar[tuple[str, ...]] = ("outputs",)

    @staticmethod
    def kind_of(settings: Settings) -> SideKind:
        return SideKind(
            settings["method"],
            settings["width"],
            settings["features"],
            settings["heads"],
            settings["stage"],
            settings["stages"],
        )

    def shapes(self, host: Any) -> Shapes:
        return {"stage": (packed_size(stage_shapes(self.settings)),)}

    @property
    def settings(self) -> Settings:
        """The sizes, as settings have them."""
        return {**vars(self.kind), "width": self.kind.size}

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        return weights

    def apply_in_call(
        self, host: Any, y: Any, ids: Any, args: Any, kwargs: Any
    ) -> Any:
        if isinstance(y, tuple | list):
            first = self.apply_in_call(host, y[0], ids, args, kwargs)
            return type(y)([first, *y[1:]])
        kind = self.kind
        x, seen = what_it_sees(host._host_class, args, kwargs)
        stream = stream_of(x, kind.stream, kind.stage, host.name)
        return self.climbed(y, stream, seen, ids)

    def climbed(self, y: Any, stream: Any, seen: Seen, ids: Any) -> Any:
        """The block's output `y`, with what goes on beside it."""
        stream = self.stream_after(y, stream, seen, ids)
        if self.kind.last:
            return self.joined(y, stream, ids)
        return with_stream(y, self.kind.stream, self.kind.stage, stream)

    def stream_after(self, y: Any, stream: Any, seen: Seen, ids: Any) -> Any:
        """The stream, once these stages have taken the block's output in."""
        y = ops.cast(y, "float32")
        weights, heads = self.stages(ids), self.kind.heads
        return climb(y, stream, visible(*seen), weights, heads, lambda x: x)

    def joined(self, y: Any, stream: Any, ids: Any) -> Any:
        """The block's output with what the ladders add to it."""
        both = join(ops.cast(y, "float32"), stream, self.stages(ids))
        return graphs.keep_mask(y, ops.cast(both, y.dtype))

    def stages(self, ids: Any) -> Weights:
        """The weights of each row's stage, or of the one in force."""
        stage = self.gathered(ids)["stage"]
        return unpacked(stage, stage_shapes(self.settings))
