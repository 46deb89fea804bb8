"""LoRA on layers that multiply by a kernel: `Dense` and `EinsumDense`."""

import math
from typing import Any

import keras
from keras import ops

from keras_lora import surgery
from keras_lora.einsum import Split, split_equation
from keras_lora.lora import ByHand, LowRank, register


class Multiplied(LowRank):
    """A host that multiplies its input by its kernel, as an einsum says."""

    bias: Any
    compute_dtype: str

    def _split(self) -> Split:
        raise NotImplementedError

    def _sizes(self) -> tuple[int, int]:
        split = self._split()
        return math.prod(split.shape_in), math.prod(split.shape_out)

    def _project(self, x: Any, a: Any) -> Any:
        split = self._split()
        if split.plain:
            return ops.matmul(split.flat_in(x), a)
        a = ops.reshape(a, (*split.shape_in, -1))
        return ops.einsum(split.project, x, a)

    def _expand(self, h: Any, b: Any) -> Any:
        split = self._split()
        if split.plain:
            return split.unflat_out(ops.matmul(h, b))
        b = ops.reshape(b, (-1, *split.shape_out))
        return ops.einsum(split.expand, h, b)

    def _rows_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        split, rows = self._split(), ops.shape(ids)[0]
        a, b = ops.take(a, ids, axis=0), ops.take(b, ids, axis=0)
        if split.plain:
            flat = split.flat_in(x)
            h = ops.matmul(ops.reshape(flat, (rows, -1, a.shape[1])), a)
            y = ops.matmul(h, b)
            y = ops.reshape(y, (*ops.shape(flat)[:-1], b.shape[-1]))
            return split.unflat_out(y)
        each = ops.shape(x)[0] // rows
        a = ops.reshape(
            ops.repeat(a, each, axis=0), (-1, *split.shape_in, a.shape[-1])
        )
        b = ops.reshape(
            ops.repeat(b, each, axis=0), (-1, b.shape[1], *split.shape_out)
        )
        h = ops.einsum(split.project_rows, x, a)
        return ops.einsum(split.expand_rows, h, b)

    def _as_kernel(self, update: Any) -> Any:
        split = self._split()
        update = ops.reshape(update, (*split.shape_in, *split.shape_out))
        return ops.transpose(update, split.kernel_order)

    def call(self, inputs: Any, training: Any = None) -> Any:
        if not (training and self._has_one_product(inputs)):
            return self._adapted("call", inputs)
        split = self._split()
        y = trained_product(
            split.flat_in(inputs),
            ops.reshape(surgery.kernel_of(self), self._sizes()),
            self.lora_a,
            self.lora_b,
            self.lora_scale,
        )
        y = split.unflat_out(y)
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return y if self.activation is None else self.activation(y)

    def quantized_call(self, inputs: Any, training: Any = None) -> Any:
        return self._adapted("quantized_call", inputs)

    def _has_one_product(self, x: Any) -> bool:
        """Whether one product with `W + A B` is exact, and worth forming.

        It is formed in float32, and pays where a row of the batch holds many
        vectors. Dropout acts on the adapter's input alone.
        """
        split = self._split()
        return (
            split.plain
            and not self.adapter_settings["dropout"]
            and self.compute_dtype == "float32"
            and surgery.kernel_of(self).dtype == "float32"
            and len(x.shape) - len(split.shape_in) >= 2
        )


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


class InDense(Multiplied):
    """A `Dense` host."""

    units: int
    input_spec: Any

    def _split(self) -> Split:
        return split_equation(
            "...a,ab->...b", (self.input_spec.axes[-1], self.units)
        )


class InEinsumDense(Multiplied):
    """An `EinsumDense` host; a quantized one packs its kernel."""

    equation: str

    def _split(self) -> Split:
        shape = getattr(self, "original_kernel_shape", None)
        return split_equation(
            self.equation, tuple(shape or surgery.kernel_of(self).shape)
        )


@register
class LoRADense(ByHand, InDense, keras.layers.Dense):
    """A `Dense` layer with frozen weights and a trained low-rank update.

    Computes `activation(x W + (x A) B * alpha / rank + bias)`; `W` and the
    bias are frozen, `A` starts random and `B` at zero.

    Args:
        units: Int, width of the output.
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, units), both float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the update's input dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.Dense`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Input shape:
        Tensor (..., in), floating point.

    Output shape:
        Tensor (..., units), in the layer's compute dtype.

    Example:

    ```python
    layer = keras_lora.LoRADense(16, rank=4, activation="relu")
    y = layer(np.ones((2, 8), "float32"))
    [v.name for v in layer.trainable_weights]  # ["lora_a", "lora_b"]
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.Dense

    def __init__(
        self,
        units: int,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._set(rank, alpha, dropout)
        super().__init__(units, **kwargs)


@register
class LoRAEinsumDense(ByHand, InEinsumDense, keras.layers.EinsumDense):
    """An `EinsumDense` layer with a trained low-rank update.

    The kernel counts as a matrix: its axes that the input has too, flattened,
    by its other axes. A query projection with kernel (384, 12, 32) costs
    `rank * (384 + 12 * 32)` weights.

    Args:
        equation: As for `keras.layers.EinsumDense`.
        output_shape: As for `keras.layers.EinsumDense`.
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, out), both float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the update's input dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.EinsumDense`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.LoRAEinsumDense(
        "bld,dhk->blhk", output_shape=(None, 12, 32), rank=8
    )
    y = layer(np.ones((2, 5, 384), "float32"))  # (2, 5, 12, 32)
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.EinsumDense

    def __init__(
        self,
        equation: str,
        output_shape: Any,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._set(rank, alpha, dropout)
        super().__init__(equation, output_shape, **kwargs)
