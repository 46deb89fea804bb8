"""Ladders of many tasks, stacked: each row climbs its own."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from keras_lora.methods.side.ladder import climb, join, packed_size, unpacked
from keras_lora.methods.side.layer import (
    stage_shapes,
    stream_of,
    what_it_sees,
    with_stream,
)
from keras_lora.methods.stack import Arrays, Kind, Settings, Shapes, Stack
from keras_lora.model import surgery


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
    def stream(self) -> str:
        """What the stream is called that all stages of such ladders share."""
        return f"{self.size}:{self.heads}:{self.stages}"


class SideStack(Stack):
    """Stages of ladders, one vector each."""

    kind: SideKind
    unit = "width"
    before_activation = False
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
        x, visible = what_it_sees(host._host_class, args, kwargs)
        stream = stream_of(x, kind.stream, kind.stage, host.name)
        return self.climbed(y, stream, visible, ids)

    def climbed(self, y: Any, stream: Any, visible: Any, ids: Any) -> Any:
        """The block's output `y`, with what goes on beside it."""
        kind, stage = self.kind, self.gathered(ids)["stage"]
        w = unpacked(stage, stage_shapes(self.settings))
        taken = ops.cast(y, "float32")
        stream = climb(taken, stream, visible, w, kind.heads, lambda x: x)
        if kind.stage < kind.stages - 1:
            return with_stream(y, kind.stream, stream)
        return surgery.keep_mask(y, ops.cast(join(taken, stream, w), y.dtype))
