"""What a stored head may cost to run: bounded before any of it is built.

A head may cost in proportion to what the base hands it and to the weights it
brings, and a little whatever those are. Everything is counted for one row; a
batch costs as many times that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_lora.files.layer_cost import Cost, layer_cost
from keras_lora.files.sizes import Shape, Unclear, shown

LENGTH = 512
"""What an axis of unknown length counts as, until a call says more."""
NUMBERS = 1 << 17
"""Numbers that an array may always have: 16 MB in float32 for 32 rows."""
WORK = 1 << 24
"""Multiplications or reads that are always allowed."""
TIMES = 4
"""How many times the size of the base's output an array may have, and how
often each weight may be used at each of the output's positions."""
ROWS = 32
"""Rows that share the weights: a batch may be `TIMES` their size."""
READS = 128
"""How often each number of the base's output may be read."""
WEIGHTED = {
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Dense",
    "EinsumDense",
    "PReLU",
    "RMSNormalization",
}
"""Classes that always have weights."""


@dataclass(frozen=True)
class Limits:
    """What a head may cost a row, by the base's output and its own weights."""

    numbers: int
    work: int

    @classmethod
    def of(cls, base: Shape, weights: int) -> "Limits":
        size = math.prod(base)
        used = TIMES * weights * math.prod(base[:-1])
        return cls(
            max(NUMBERS, TIMES * size, TIMES * weights // ROWS),
            max(WORK, READS * size, used),
        )


def head_problems(
    head: dict[str, Any],
    weights: dict[str, tuple[int, ...]],
    base: Sequence[int | None] | None,
) -> list[str]:
    """Says which layer of a head costs too much, or does not say what.

    Args:
        head: As it stands in a record.
        weights: The shape of each of its tensors, by key in the file.
        base: The shape of the base's output, batch first; None where it is
            not known: then the head is believed which shape it takes.
    """
    count = sum(math.prod(shape) for shape in weights.values())
    shape = None if base is None else counted(base)
    limits = None if shape is None else Limits.of(shape, count)
    work = 0
    for number, entry in enumerate(head["layers"]):
        where = f"layer {number} ({entry['class']})"
        stated = entry.get("input_shape")
        if stated is None and makes_weights(entry):
            return [f"{where}: it has weights and no input shape"]
        try:
            if stated is not None:
                shape = larger(shape, counted(stated))
            given = shape or likely_shape(entry["class"])
            if given is None:
                continue
            if limits is None and shape is not None:
                limits = Limits.of(shape, count)
            allowed = limits or Limits.of(given, count)
            cost = layer_cost(entry["class"], entry["config"], given)
            work += cost.work + lora_work(entry, count)
        except Unclear as problem:
            return [f"{where}: {problem}"]
        found = too_much(cost, work, allowed)
        if found:
            return [f"{where}: {found}"]
        shape = shape and cost.shape
    return []


def too_much(cost: Cost, work: int, limits: Limits) -> str:
    """Says what of a layer is more than is allowed, if anything."""
    numbers = math.prod(cost.shape)
    for what, size in ("output", numbers), ("padded input", cost.padded):
        if size > limits.numbers:
            return (
                f"its {what} has {shown(size)} numbers a row, more than "
                f"{shown(limits.numbers)}"
            )
    if work > limits.work:
        return (
            f"it takes {shown(cost.work)} multiplications or reads a row, "
            f"{shown(work)} with the layers before it, more than "
            f"{shown(limits.work)}"
        )
    return ""


def counted(shape: Sequence[int | None]) -> Shape:
    """The shape of one row, with a length for axes that are open."""
    if not shape:
        raise Unclear("its input shape has no axes")
    sizes = [LENGTH if n is None else n for n in shape[1:]]
    if not all(type(n) is int and n > 0 for n in sizes):
        raise Unclear(f"its input shape is {tuple(shape)}")
    return (1, *sizes)


def larger(shape: Shape | None, stated: Shape) -> Shape:
    """The larger of what a layer would get and what it says it gets."""
    if shape is None:
        return stated
    if len(shape) != len(stated):
        raise Unclear(
            f"it takes a shape of {len(stated)} axes, would get {len(shape)}"
        )
    return tuple(map(max, shape, stated))


def likely_shape(kind: str) -> Shape | None:
    """What a pooling gets at least, where nothing says more."""
    if "Pooling" not in kind:
        return None
    return (1, *[LENGTH] * int(kind[-2]), 1)


def makes_weights(entry: dict[str, Any]) -> bool:
    """Whether a layer would make weights when it is built."""
    kind, config = entry["class"], entry["config"]
    if kind in ("GroupNormalization", "LayerNormalization"):
        settings = ("center", True), ("scale", True), ("rms_scaling", False)
        return any(config.get(name, usual) for name, usual in settings)
    return kind in WEIGHTED


def lora_work(entry: dict[str, Any], weights: int) -> int:
    """What Keras's own LoRA takes in each call: its factors' product."""
    rank = entry["config"].get("lora_rank") or 0
    if type(rank) is not int or rank < 0:
        raise Unclear(f"`lora_rank` is {rank!r}")
    return rank * weights // ROWS
