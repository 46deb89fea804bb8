"""A ladder beside the base, which reads its blocks and adds to the last."""

from typing import Any

from keras_lora.methods.method import Method, Settings, Widths
from keras_lora.methods.side.config import SideConfig, wrong_ladder, wrong_stage
from keras_lora.methods.side.layer import (
    OWN,
    SideStage,
    is_last,
    stream_of,
    what_it_sees,
    with_stream,
)
from keras_lora.methods.side.stack import SideKind, SideStack
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import output_width


def width_of(settings: Settings, weights: dict[str, Any]) -> str:
    """The size of a stage."""
    return f"width {settings['width']}"


def read_width(layer: Layer) -> Widths:
    """The width of what a stage reads, or why it has none."""
    return {"features": output_width(layer)}


SIDE = Method(
    "side",
    SideConfig,
    lambda layer: SideStage,
    width_of,
    check=wrong_stage,
    stack=SideStack,
    widths=read_width,
    together=wrong_ladder,
)
