"""A model's repeated blocks, and targets in some of them."""

import itertools
from collections.abc import Iterable, Sequence

import keras

from keras_lora.errors import shorten
from keras_lora.model import graphs, surgery
from keras_lora.model.classes import plain_class
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import LINEAR
from keras_lora.targets.names import Targets, select

Blocks = slice | Sequence[int]


def in_blocks(
    layers: Layers, targets: list[str], chosen: Blocks | None
) -> tuple[list[str], list[str]]:
    """Leaves the targets that lie in some of the model's blocks.

    The blocks are `chosen` as in `LoRAConfig`; None leaves all targets. Says
    what is wrong with their numbers, too.
    """
    if chosen is None or not targets:
        return targets, []
    stacks = stacks_of_blocks(layers, targets)
    if not stacks:
        return [], ["layers: the model has no repeated blocks with targets"]
    problems, kept = [], []
    for blocks in stacks:
        if isinstance(chosen, slice):
            kept += blocks[chosen]
            continue
        missing = [n for n in chosen if not -len(blocks) <= n < len(blocks)]
        if missing:
            problems.append(
                f"layers: no block {', '.join(map(str, missing))}; the "
                f"{len(blocks)} blocks are {shorten(blocks)}"
            )
        kept += [blocks[n] for n in chosen if n not in missing]
    found = [path for path in targets if within(path, kept)]
    if not found and not problems:
        blocks = [path for stack in stacks for path in stack]
        problems = [f"layers: no target is in {chosen} of {shorten(blocks)}"]
    return found, problems


def chain_of_blocks(
    layers: Layers, targets: Targets | None, chosen: Blocks | None
) -> tuple[list[str], list[str]]:
    """Blocks each of which reads the one before it, and what is wrong.

    `targets` name them; None means the model's repeated blocks, and of these
    those that are `chosen`.
    """
    problems: list[str] = []
    linear = [p for p, la in layers.items() if isinstance(la, LINEAR)]
    if targets is not None:
        paths = [path for path in layers if path]
        blocks, missed = select(targets, paths)
        problems = [f"{entry!r} matches no layer" for entry in missed]
    else:
        stacks = stacks_of_blocks(layers, linear)
        if len(stacks) != 1:
            listed = [path for stack in stacks for path in stack]
            there = f"several rows of blocks: {shorten(listed)}"
            return [], [
                f"the model has {there if stacks else 'no repeated blocks'}; "
                "name the blocks in `targets`"
            ]
        blocks = stacks[0]
    if chosen is not None:
        inside, missed = in_blocks(layers, linear, chosen)
        problems += missed
        blocks = [p for p in blocks if any(within(t, [p]) for t in inside)]
    return blocks, problems + wrong_chain(layers, blocks)


def wrong_chain(layers: Layers, blocks: list[str]) -> list[str]:
    """Says which blocks do not read the one before them."""
    return [
        f"{two}: it does not read what {one} gives"
        for one, two in itertools.pairwise(blocks)
        if not reads(layers[two], layers[one])
    ]


def reads(layer: Layer, before: Layer) -> bool:
    """Whether a layer's first input comes straight from another one.

    Where there is no graph that tells, it may.
    """
    sources = []
    for args, kwargs in graphs.graph_calls(layer):
        x = surgery.first_argument(plain_class(layer), args, kwargs)
        if isinstance(x, keras.KerasTensor) and graphs.in_graph(x):
            sources.append(graphs.graph_source(x)[0])
    return not sources or any(source is before for source in sources)


def stacks_of_blocks(layers: Layers, targets: list[str]) -> list[list[str]]:
    """Paths of blocks with targets, those that stand side by side together.

    A block is a layer with sublayers that has others of its class beside it
    and is in no other block.
    """
    stacks: dict[tuple[str, type], list[str]] = {}
    for path, layer in layers.items():
        if path and surgery.children(layer):
            parent = path.rpartition("/")[0]
            stacks.setdefault((parent, type(layer)), []).append(path)
    several = [blocks for blocks in stacks.values() if len(blocks) > 1]
    inner = [path for blocks in several for path in blocks]
    return [
        blocks
        for blocks in several
        if any(within(path, blocks) for path in targets)
        and not within(blocks[0], inner)
    ]


def within(path: str, tops: Iterable[str]) -> bool:
    """Whether a layer is below one of some others."""
    return any(path.startswith(top + "/") for top in tops)
