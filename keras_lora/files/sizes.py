"""Sizes as a config states them, checked, and what windows make of them."""

from collections.abc import Sequence
from typing import Any

import keras

LARGEST = 1 << 30
"""The largest size: TensorFlow ends the process over a stride past int32."""

Shape = tuple[int, ...]
Config = dict[str, Any]


class Unclear(ValueError):
    """A config that does not say what a layer would do."""


def nested_shape(value: Any, name: str) -> list[int]:
    """The shape of an array written as lists in lists."""
    if not isinstance(value, list | tuple):
        return []
    inner = {tuple(nested_shape(item, name)) for item in value}
    if len(inner) != 1:
        raise Unclear(f"`{name}` is no array")
    return [len(value), *inner.pop()]


def broadcast(shape: Shape, sizes: Sequence[int]) -> Shape:
    """The larger of each axis, the last ones together."""
    count = max(len(shape), len(sizes))
    pairs = zip(
        [1] * (count - len(shape)) + list(shape),
        [1] * (count - len(sizes)) + list(sizes),
        strict=True,
    )
    return tuple(max(pair) for pair in pairs)


def windows(
    config: Config,
    lengths: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[list[int], list[int]]:
    """How many windows there are on each axis, and its length once padded."""
    padding = str(config.get("padding", "valid")).lower()
    if padding not in ("valid", "same", "causal"):
        raise Unclear(f"`padding` is {config['padding']!r}")
    out, padded = [], []
    for length, size, step, rate in zip(
        lengths, sizes, strides, dilation, strict=True
    ):
        reach = (size - 1) * rate + 1
        if padding == "valid":
            count = max(1, (length - reach) // step + 1)
        else:
            count = (length - 1) // step + 1
        last = length + reach - 1 if padding == "causal" else reach
        wide = max(length, last, (count - 1) * step + reach)
        out.append(count)
        # TensorFlow cuts a dilated one into parts of equal length.
        padded.append(wide if rate == 1 else wide + rate)
    return out, padded


def axes(kind: str, shape: Shape) -> int:
    """How many axes a class slides over; the shape has two more."""
    count = int(kind[-2])
    if len(shape) != count + 2:
        raise Unclear(f"it takes {count + 2} axes and would get {len(shape)}")
    return count


def channels_last(config: Config) -> bool:
    found = config.get("data_format") or keras.config.image_data_format()
    return bool(found == "channels_last")


def channels_axis(config: Config) -> int:
    return -1 if channels_last(config) else 1


def spatial(shape: Shape, channels: int) -> Shape:
    """The axes that windows slide over."""
    return shape[1:-1] if channels == -1 else shape[2:]


def with_channels(sizes: Sequence[int], count: int, channels: int) -> Shape:
    """A shape of one row, with its channels where they belong."""
    return (1, *sizes, count) if channels == -1 else (1, count, *sizes)


def whole(config: Config, name: str, default: Any = None) -> int:
    """A setting that is one whole number above 0."""
    return positive(name, config.get(name, default))


def wholes(
    config: Config, name: str, count: int, default: Any = None
) -> list[int]:
    """A setting that is a whole number above 0, or one for each axis."""
    value = config.get(name, default)
    found = value if isinstance(value, list | tuple) else [value] * count
    if len(found) != count:
        raise Unclear(f"`{name}` is {value}, for {count} axes")
    return [positive(name, size) for size in found]


def positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise Unclear(f"`{name}` has {value!r}, which is no size")
    if value > LARGEST:
        raise Unclear(f"`{name}` has {shown(value)}, over {LARGEST:,}")
    return value


def shown(number: int) -> str:
    """A number as a message has it; Python does not print any."""
    return f"{number:,}" if number < 10**18 else "over 10^18"
