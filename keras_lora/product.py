"""A product with a frozen kernel and its update, and its cheap gradient."""

from typing import Any

from keras import ops


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
    def product(x: Any, a: Any, b: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            dy = args[0] if upstream is None else upstream
            rows = ops.reshape(x, (-1, size_in))
            dy = ops.reshape(dy, (-1, size_out))
            through_b = ops.matmul(dy, ops.transpose(b))
            through_a = ops.matmul(rows, a)
            dx = ops.matmul(dy, ops.transpose(w + ops.matmul(a, b)))
            return (
                ops.reshape(dx, ops.shape(x)),
                ops.matmul(ops.transpose(rows), through_b),
                ops.matmul(ops.transpose(through_a), dy),
            )

        return ops.matmul(x, w + ops.matmul(a, b)), gradient

    # A custom gradient takes tensors, not variables.
    return product(ops.convert_to_tensor(x), ops.copy(a), b * scale)
