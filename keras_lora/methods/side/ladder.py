"""The math of a ladder beside a base: one stage a block, and where it joins.

A stage's weights are one vector: an optimizer's step, a slot of a bank and a
tensor of a file each cost by the piece. Every function takes them unpacked.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Weights = dict[str, Any]
Dropped = Callable[[Any], Any]
Shapes = dict[str, tuple[int, ...]]
KERNEL = "{}_kernel"
"""What a product's kernel is called."""
LOWEST = -1e9
"""Added to the score of what attention must not see."""


def climb(
    y: Any, stream: Any, visible: Any, w: Weights, heads: int, dropped: Dropped
) -> Any:
    """One stage: the stream takes a block's output in and passes on.

    Args:
        y: The block's output (..., length, features), float32.
        stream: What the stage before gave (..., length, width), or None.
        visible: Bool tensor whose shape fits (..., length, length): what each
            position may see. None for all.
        w: The stage's weights.
        heads: Of its attention.
        dropped: Its dropout.

    Returns:
        The stream (..., length, width).
    """
    s = linear(dropped(y), w, "down")
    if stream is not None:
        share = ops.sigmoid(w["gate"])
        s = share * s + (1 - share) * stream
    normal = normalized(s, w, "attention_norm")
    s = s + dropped(attention(normal, visible, w, heads))
    normal = normalized(s, w, "feedforward_norm")
    hidden = ops.gelu(linear(normal, w, "wide"))
    return s + dropped(linear(hidden, w, "narrow"))


def join(y: Any, stream: Any, w: Weights) -> Any:
    """The last block's output with what the ladder adds to it, float32."""
    return y + linear(normalized(stream, w, "output_norm"), w, "up")


def linear(x: Any, w: Weights, name: str) -> Any:
    """`x` times a kernel, and its bias."""
    return ops.matmul(x, w[KERNEL.format(name)]) + w[f"{name}_bias"]


def normalized(x: Any, w: Weights, name: str) -> Any:
    """`x` with mean 0 and variance 1 over its last axis, then scaled."""
    x = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
    scale = ops.rsqrt(variance + 1e-5) * (1 + w[f"{name}_gain"])
    return x * scale + w[f"{name}_bias"]


def attention(x: Any, visible: Any, w: Weights, heads: int) -> Any:
    """Self-attention over the second-last axis."""
    shape = ops.shape(x)
    size = x.shape[-1] // heads
    mixed = linear(x, w, "mixed")  # queries, keys and values in one product
    mixed = ops.reshape(mixed, (*shape[:-1], 3 * heads, size))
    mixed = ops.swapaxes(mixed, -3, -2)  # (..., 3 * heads, length, size)
    q, k, v = ops.split(mixed, 3, axis=-3)
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / math.sqrt(size)
    if visible is not None:
        visible = ops.expand_dims(visible, -3)
        scores = ops.where(visible, scores, LOWEST)
    found = ops.matmul(ops.softmax(scores, axis=-1), v)
    found = ops.reshape(ops.swapaxes(found, -3, -2), shape)
    return linear(found, w, "output")


def shapes(features: int, width: int, last: bool) -> Shapes:
    """The shape of each weight of a stage, in the order they are packed."""
    sizes = {
        "down": (features, width),
        "mixed": (width, 3 * width),
        "output": (width, width),
        "wide": (width, 2 * width),
        "narrow": (2 * width, width),
        **({"up": (width, features)} if last else {}),
    }
    found: Shapes = {"gate": (1,)}
    for name, (size_in, size_out) in sizes.items():
        found[KERNEL.format(name)] = (size_in, size_out)
        found[f"{name}_bias"] = (size_out,)
    for name in ("attention", "feedforward", *(["output"] if last else [])):
        found[f"{name}_norm_gain"] = found[f"{name}_norm_bias"] = (width,)
    return found


def packed_size(sizes: Shapes) -> int:
    """How many values a stage has."""
    return sum(map(math.prod, sizes.values()))


def unpacked(stage: Any, sizes: Shapes) -> Weights:
    """A stage's weights by name.

    Args:
        stage: All of them (..., values); axes in front are those of rows. A
            vector then has an axis of size 1 before its last.
        sizes: The shape of each.
    """
    rows = tuple(stage.shape[:-1])
    ends = list(itertools.accumulate(map(math.prod, sizes.values())))
    parts = ops.split(stage, ends[:-1], axis=-1)
    # Only the first axis may be open; a reshape takes one such.
    lead = (-1, *rows[1:]) if rows else ()
    return {
        name: ops.reshape(
            part, (*lead, *((1,) if rows and len(size) == 1 else ()), *size)
        )
        for (name, size), part in zip(sizes.items(), parts, strict=True)
    }


@keras.saving.register_keras_serializable(package="keras_lora")
class StageInitializer(keras.initializers.Initializer):
    """How a stage starts: kernels at random, the way back and all else at zero.

    Args:
        features: Width of what the stage reads.
        width: Of the stage.
        last: Whether it has the way back.
    """

    def __init__(self, features: int, width: int, last: bool) -> None:
        self.features, self.width, self.last = features, width, last

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """The values of a stage, packed."""
        sizes = shapes(self.features, self.width, self.last)
        random = keras.initializers.GlorotUniform()
        parts = [
            random(size, dtype)
            if name.endswith("kernel") and name != "up_kernel"
            else ops.zeros(size, dtype)
            for name, size in sizes.items()
        ]
        return ops.concatenate([ops.reshape(part, (-1,)) for part in parts])

    def get_config(self) -> dict[str, Any]:
        return {
            "features": self.features,
            "width": self.width,
            "last": self.last,
        }
