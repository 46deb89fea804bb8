"""What one layer of a head costs a row, told from its config alone.

Nothing is built and no array is made: sizes are Python's own whole numbers.
Where a backend may do less, the larger number counts.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from keras_lora.files.head_ops import ELLIPSIS, is_key
from keras_lora.files.sizes import (
    Config,
    Shape,
    Unclear,
    axes,
    broadcast,
    channels_axis,
    channels_last,
    nested_shape,
    positive,
    spatial,
    whole,
    wholes,
    windows,
    with_channels,
)
from keras_lora.settings import is_int

PASSES = 8
"""How often a norm or an activation reads each number, about."""
SORTS = 64
"""How often `sparsemax` does, which sorts them."""
COMPARES = 2
"""What a comparison in a window counts as: it takes longer than a product."""
COMPILES = 1 << 20
"""What a convolution is worth that TensorFlow compiles at every call."""


@dataclass(frozen=True)
class Cost:
    """What a layer makes of one row, and what that takes.

    Attributes:
        shape: Of its output, with 1 for the batch.
        work: Multiplications, or numbers read, whichever is more.
        padded: Numbers in the input once it is padded, or 0.
    """

    shape: Shape
    work: int
    padded: int = 0


def layer_cost(kind: str, config: Config, shape: Shape) -> Cost:
    """What a layer of an allowed class costs on an input of a shape.

    Raises:
        Unclear: A setting is not of its type, or does not fit the shape.
    """
    return activated(RULES.get(kind, elementwise)(kind, config, shape), config)


def activated(cost: Cost, config: Config) -> Cost:
    """A cost with that of the activation in the same config."""
    name = config.get("activation")
    if name in (None, "linear"):
        return cost
    passes = SORTS if name == "sparsemax" else PASSES
    work = cost.work + passes * math.prod(cost.shape)
    shape = cost.shape
    if name == "glu":
        shape = (*shape[:-1], max(1, shape[-1] // 2))
    return Cost(shape, work, cost.padded)


def elementwise(kind: str, config: Config, shape: Shape) -> Cost:
    return Cost(shape, PASSES * math.prod(shape))


def nothing(kind: str, config: Config, shape: Shape) -> Cost:
    return Cost(shape, 0)


def dense(kind: str, config: Config, shape: Shape) -> Cost:
    units = whole(config, "units")
    return Cost((*shape[:-1], units), math.prod(shape) * units)


def einsum(kind: str, config: Config, shape: Shape) -> Cost:
    """Every label once: what the sum of products runs over."""
    left, inputs, kernel, outputs, elided = einsum_labels(config, shape)
    seen = shape[len(elided) :] if left else shape[: len(inputs)]
    sizes: dict[str, int] = {}
    for label, size in zip(inputs, seen, strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    stated = config.get("output_shape")
    stated = list(stated) if isinstance(stated, list | tuple) else [stated]
    new = outputs if left else outputs[1:]
    if len(stated) != len(new):
        raise Unclear(f"`output_shape` is {stated}, for {config['equation']!r}")
    for label, size in zip(new, stated, strict=True):
        if label not in inputs:
            sizes[label] = positive("output_shape", size)
    unknown = {*kernel, *outputs} - sizes.keys()
    if unknown:
        raise Unclear(f"its equation gives {sorted(unknown)} no size")
    out = [sizes[label] for label in outputs]
    whole_shape = (*elided, *out) if left else (*out, *elided)
    return Cost(whole_shape, math.prod(sizes.values()) * math.prod(elided))


def einsum_labels(
    config: Config, shape: Shape
) -> tuple[bool, str, str, str, Shape]:
    """An equation's parts, and the axes that its dots stand for."""
    equation = config.get("equation")
    found = re.fullmatch(
        r"(\.{3})?([a-zA-Z]+)(\.{3})?,([a-zA-Z]+)->"
        r"(\.{3})?([a-zA-Z]+)(\.{3})?",
        equation if isinstance(equation, str) else "",
    )
    dots = found and (found[1], found[3])
    if not found or dots != (found[5], found[7]) or all(dots or ()):
        raise Unclear(f"`equation` is {equation!r}")
    count = len(shape) - len(found[2])
    if count < 0 or (count and not any(dots or ())):
        raise Unclear(f"its equation is not for {len(shape)} axes")
    elided = shape[:count] if found[1] else shape[len(found[2]) :]
    return bool(found[1]), found[2], found[4], found[6], elided


def convolution(kind: str, config: Config, shape: Shape) -> Cost:
    count, channels = axes(kind, shape), channels_axis(config)
    sizes = wholes(config, "kernel_size", count)
    dilation = wholes(config, "dilation_rate", count, 1)
    strides = wholes(config, "strides", count, 1)
    filters = whole(config, "filters")
    groups = whole(config, "groups", 1)
    out, padded = windows(
        config, spatial(shape, channels), sizes, strides, dilation
    )
    each = math.prod(sizes) * max(1, shape[channels] // groups) * filters
    work = math.prod(out) * each
    if groups > 1 or (count == 3 and channels == 1):
        work += COMPILES
    return Cost(
        with_channels(out, filters, channels),
        work,
        math.prod(padded) * shape[channels],
    )


def pooling(kind: str, config: Config, shape: Shape) -> Cost:
    count, channels = axes(kind, shape), channels_axis(config)
    sizes = wholes(config, "pool_size", count, 2)
    strides = sizes
    if config.get("strides") is not None:
        strides = wholes(config, "strides", count)
    ones = [1] * count
    out, padded = windows(
        config, spatial(shape, channels), sizes, strides, ones
    )
    found = with_channels(out, shape[channels], channels)
    each = COMPARES if kind.startswith("Max") else 1
    work = each * math.prod(found) * math.prod(sizes)
    return Cost(found, work, math.prod(padded) * shape[channels])


def global_pooling(kind: str, config: Config, shape: Shape) -> Cost:
    count, channels = axes(kind, shape), channels_axis(config)
    kept = [1] * count if config.get("keepdims") else []
    out = with_channels(kept, shape[channels], channels)
    return Cost(out, math.prod(shape))


def part(kind: str, config: Config, shape: Shape) -> Cost:
    """What `GetItem` leaves of each axis."""
    key = config.get("key")
    if not isinstance(key, list) or not is_key(key):
        raise Unclear(f"`key` is {str(key)[:80]}")
    named = [item for item in key if item not in (None, ELLIPSIS)]
    rest = len(shape) - len(named)
    if rest < 0 or key.count(ELLIPSIS) > 1:
        raise Unclear(f"`key` is {key}, for {len(shape)} axes")
    filled = key if ELLIPSIS in key else [*key, ELLIPSIS]
    sizes, out = iter(shape), list[int]()
    for item in filled:
        if item is None:
            out.append(1)
        elif item == ELLIPSIS:
            out += [next(sizes) for _ in range(rest)]
        elif isinstance(item, list):
            if item[2] == 0:
                raise Unclear(f"`key` is {key}, with a step of 0")
            out.append(len(range(next(sizes))[slice(*item)]))
        else:
            next(sizes)
    return Cost(tuple(out), math.prod(out))


def mean(kind: str, config: Config, shape: Shape) -> Cost:
    named = config.get("axis")
    count = len(shape)
    if not isinstance(named, list | tuple) or not all(
        is_int(n) and -count <= n < count and n % count for n in named
    ):
        raise Unclear(f"`axis` is {str(named)[:80]}, for {count} axes")
    gone = {n % count for n in named}
    kept = bool(config.get("keepdims"))
    out = [
        1 if n in gone else size
        for n, size in enumerate(shape)
        if kept or n not in gone
    ]
    return Cost(tuple(out), math.prod(shape))


def flatten(kind: str, config: Config, shape: Shape) -> Cost:
    return Cost((1, math.prod(shape)), math.prod(shape))


def permute(kind: str, config: Config, shape: Shape) -> Cost:
    dims = config.get("dims")
    if not isinstance(dims, list | tuple) or (
        sorted(map(str, dims)) != sorted(map(str, range(1, len(shape))))
    ):
        raise Unclear(f"`dims` is {dims}, for {len(shape)} axes")
    return Cost((1, *(shape[int(dim)] for dim in dims)), math.prod(shape))


def reshape(kind: str, config: Config, shape: Shape) -> Cost:
    """A size of -1 is rounded up, as axes of unknown length may be in it."""
    target = config.get("target_shape")
    if not isinstance(target, list | tuple):
        raise Unclear(f"`target_shape` is {target!r}")
    sizes = [1 if n == -1 else positive("target_shape", n) for n in target]
    rest = -(-math.prod(shape) // math.prod(sizes))
    out = [rest if n == -1 else int(n) for n in target]
    return Cost((1, *out), math.prod(shape))


def scaled(kind: str, config: Config, shape: Shape) -> Cost:
    """A norm; where its weights are not brought into place, they broadcast."""
    found = config.get("axis", -1)
    places = found if isinstance(found, list | tuple) else [found]
    for axis in places:
        if type(axis) is not int or not -len(shape) <= axis < len(shape):
            raise Unclear(f"`axis` is {found!r}, for {len(shape)} axes")
    sizes = [shape[axis] for axis in places]
    if kind == "RMSNormalization" or len(sizes) == len(shape):
        shape = broadcast(shape, sizes)
    return elementwise(kind, config, shape)


def rescaling(kind: str, config: Config, shape: Shape) -> Cost:
    for name in ("scale", "offset"):
        sizes = nested_shape(config.get(name), name)
        if sizes and name == "scale" and not channels_last({}):
            sizes += [1] * (3 - len(sizes))
        shape = broadcast(shape, sizes)
    return elementwise(kind, config, shape)


Rule = Callable[[str, Config, Shape], Cost]
RULES: dict[str, Rule] = {
    "Dense": dense,
    "EinsumDense": einsum,
    "Flatten": flatten,
    "GetItem": part,
    "LayerNormalization": scaled,
    "Mean": mean,
    "Permute": permute,
    "RMSNormalization": scaled,
    "Rescaling": rescaling,
    "Reshape": reshape,
    **{f"Conv{n}D": convolution for n in (1, 2, 3)},
    **{
        f"{kind}Pooling{n}D": pooling
        for kind in ("Average", "Max")
        for n in (1, 2, 3)
    },
    **{
        f"Global{kind}Pooling{n}D": global_pooling
        for kind in ("Average", "Max")
        for n in (1, 2, 3)
    },
    **{f"SpatialDropout{n}D": nothing for n in (1, 2, 3)},
    **{
        kind: nothing
        for kind in (
            "Activation",  # which `activated` counts
            "AlphaDropout",
            "Dropout",
            "GaussianDropout",
            "GaussianNoise",
            "Identity",
        )
    },
}
"""The rule of each class that is more than one pass over its input."""
