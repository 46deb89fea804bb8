"""The math of a ladder beside a base: one stage a block, and where it joins.

Every function takes weights by name. Each may have a batch axis in front; a
vector then has an axis of size 1 before its last.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

Weights = dict[str, Any]
Dropped = Callable[[Any], Any]
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
    down = linear(dropped(y), w, "down")
    if stream is None:
        s = down
    else:
        share = ops.sigmoid(w["gate"])
        s = share * down + (1 - share) * stream
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
    return ops.matmul(x, w[f"{name}_kernel"]) + w[f"{name}_bias"]


def normalized(x: Any, w: Weights, name: str) -> Any:
    """`x` with mean 0 and variance 1 over its last axis, then scaled."""
    x = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
    x = x * ops.rsqrt(variance + 1e-5)
    return x * w[f"{name}_gamma"] + w[f"{name}_beta"]


def attention(x: Any, visible: Any, w: Weights, heads: int) -> Any:
    """Self-attention over the second-last axis."""
    shape = ops.shape(x)
    size = x.shape[-1] // heads
    mixed = linear(x, w, "mixed")  # queries, keys and values in one product
    mixed = ops.reshape(mixed, (*shape[:-1], 3, heads, size))
    mixed = ops.moveaxis(mixed, -4, -2)  # (..., 3, heads, length, size)
    q, k, v = (mixed[..., n, :, :, :] for n in range(3))
    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / math.sqrt(size)
    if visible is not None:
        visible = ops.expand_dims(visible, -3)
        scores = scores + ops.where(visible, 0.0, LOWEST)
    found = ops.matmul(ops.softmax(scores, axis=-1), v)
    found = ops.reshape(ops.moveaxis(found, -3, -2), shape)
    return linear(found, w, "output")


def shapes(
    features: int, width: int, first: bool, last: bool
) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a stage."""
    sizes = {
        "down": (features, width),
        "mixed": (width, 3 * width),
        "output": (width, width),
        "wide": (width, 2 * width),
        "narrow": (2 * width, width),
        **({"up": (width, features)} if last else {}),
    }
    found: dict[str, tuple[int, ...]] = {}
    if not first:
        found["gate"] = (1,)
    for name, (size_in, size_out) in sizes.items():
        found[f"{name}_kernel"] = (size_in, size_out)
        found[f"{name}_bias"] = (size_out,)
    norms = ["attention", "feedforward", *(["output"] if last else [])]
    for name in norms:
        found[f"{name}_norm_gamma"] = found[f"{name}_norm_beta"] = (width,)
    return found
