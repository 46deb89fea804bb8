"""A product with a frozen kernel and its update, and its cheap gradient."""

import math
from typing import Any

from keras import ops

MIN_WIDTH_BY_ROW = 1024
MAX_RANK_BY_ROW = 16
PASSES = 4
"""How much more a pass over the kernel, to form another, costs than one over
the vectors, for skinny products; measured on a CPU."""


def trained_product(x: Any, w: Any, a: Any, b: Any, scale: float) -> Any:
    """`x (W + A B * scale)`, with gradients to `x`, `A` and `B` only.

    Skinny products stand in for the gradient of the kernel, which is never
    formed; nor is a delta the size of the output.

    Args:
        x: Tensor (..., in).
        w: Frozen kernel, tensor (in, out).
        a: Variable (in, rank).
        b: Variable (rank, out).
        scale: Number.

    Returns:
        Tensor (..., out).
    """
    size_in, size_out = w.shape

    @ops.custom_gradient
    def product(x: Any, w: Any, a: Any, b: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            dy = args[0] if upstream is None else upstream
            rows = ops.reshape(x, (-1, size_in))
            dy = ops.reshape(dy, (-1, size_out))
            through_b = ops.matmul(dy, ops.transpose(b))
            through_a = ops.matmul(rows, a)
            dx = ops.matmul(dy, ops.transpose(w + ops.matmul(a, b)))
            return (
                ops.reshape(dx, ops.shape(x)),
                None,
                gradient_of_a(x, size_in, through_b),
                ops.matmul(ops.transpose(through_a), dy),
            )

        return ops.matmul(x, w + ops.matmul(a, b)), gradient

    # A custom gradient takes tensors, not variables; one that would find the
    # kernel in its closure cannot be rematerialized by JAX.
    x, w = ops.convert_to_tensor(x), ops.convert_to_tensor(w)
    return product(x, w, ops.copy(a), b * scale)


def gradient_of_a(x: Any, size_in: int, through_b: Any) -> Any:
    """`x` transposed times `through_b`; by row of the batch where `x` is wide.

    XLA on a CPU takes three times as long for one long product of a wide `x`;
    of a narrow one the parts, and their sum, cost more than they save. Larger
    ranks would make the parts larger than `x`.

    Args:
        x: Tensor (batch, ..., in).
        size_in: Its width, which a graph may not know.
        through_b: Tensor (batch * ..., rank).

    Returns:
        Tensor (in, rank).
    """
    rank = through_b.shape[-1]
    if size_in < MIN_WIDTH_BY_ROW or rank > MAX_RANK_BY_ROW:
        rows = ops.reshape(x, (-1, size_in))
        return ops.matmul(ops.transpose(rows), through_b)
    batch = ops.shape(x)[0]
    x = ops.reshape(x, (batch, -1, size_in))
    parts = ops.reshape(through_b, (batch, -1, rank))
    parts = ops.matmul(ops.transpose(parts, (0, 2, 1)), x)
    return ops.transpose(ops.sum(parts, axis=0))


def pays_to_form(lead: tuple[Any, ...], size_in: int, size_out: int) -> Any:
    """Whether `x (W + A B)` takes less time than `x W + (x A) B`.

    Forming the kernel passes over all of it, skinny products over all of `x`.

    Args:
        lead: Axes of `x` before its last: ints, or what a graph has for an
            axis that it does not know, tensors or JAX's symbols.
        size_in: Its last axis.
        size_out: That of the output.

    Returns:
        A bool, or a tensor of one where an axis is one. False where an axis
        is a symbol, which compares with nothing.
    """
    least = PASSES * size_in * size_out // (size_in + size_out)
    known = [size for size in lead if isinstance(size, int)]
    unknown = [size for size in lead if not isinstance(size, int)]
    if not all(map(ops.is_tensor, unknown)):
        return False
    return math.prod(unknown, start=math.prod(known)) >= least
