"""LoRA on layers that multiply by a kernel: `Dense` and `EinsumDense`."""

import math
from typing import Any

import keras
from keras import ops

from keras_lora.methods.host import Setting
from keras_lora.methods.lora.einsum import Split, split_equation
from keras_lora.methods.lora.low_rank import LoRALayer, LowRank, Shown, register
from keras_lora.methods.lora.product import pays_to_form, trained_product
from keras_lora.methods.stack import of_rows, one_for_all
from keras_lora.model import surgery


def repeated(weights: Any, times: Any) -> Any:
    """Each row's weights for each of its entries."""
    one = isinstance(times, int) and times == 1
    return weights if one else ops.repeat(weights, times, axis=0)


class LinearLoRA(LowRank):
    """A host that multiplies its input by its kernel, as an einsum says."""

    bias: Any
    compute_dtype: str
    kernel = Shown()

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
        a, b = of_rows(a, ids), of_rows(b, ids)
        split, rows = self._split(), ops.shape(a)[0]
        if split.plain:
            flat = split.flat_in(x)
            h = ops.matmul(ops.reshape(flat, (rows, -1, a.shape[1])), a)
            y = ops.matmul(h, b)
            y = ops.reshape(y, (*ops.shape(flat)[:-1], b.shape[-1]))
            return split.unflat_out(y)
        each = ops.shape(x)[0] // rows
        a = ops.reshape(repeated(a, each), (-1, *split.shape_in, a.shape[-1]))
        b = ops.reshape(repeated(b, each), (-1, b.shape[1], *split.shape_out))
        h = ops.einsum(split.project_rows, x, a)
        return ops.einsum(split.expand_rows, h, b)

    def _as_kernel(self, update: Any) -> Any:
        split = self._split()
        update = ops.reshape(update, (*split.shape_in, *split.shape_out))
        return ops.transpose(update, split.kernel_order)

    def _as_matrix(self, kernel: Any) -> Any:
        order = self._split().kernel_order
        back = sorted(range(len(order)), key=order.__getitem__)
        return ops.reshape(ops.transpose(kernel, back), self._sizes())

    def frozen_matrix(self) -> Any:
        """What a plain host's input is multiplied by beside the factors."""
        return ops.reshape(surgery.kernel_of(self), self._sizes())

    def unbiased(self, y: Any) -> Any:
        """The host's product without its bias, in float32."""
        y = ops.cast(y, "float32")
        return y if self.bias is None else y - ops.cast(self.bias, "float32")

    def scaled(self, y: Any, by: Any) -> Any:
        """`y` times one number for each column of the kernel (out,)."""
        split = self._split()
        by = ops.reshape(by, split.shape_out)
        return y * by if split.plain else ops.einsum(split.scale, y, by)

    def rows_scaled(self, y: Any, by: Any, ids: Any) -> Any:
        """The same with each row's own numbers, out of many (slots, out).

        Rows and `ids` are as in `rows_delta`.
        """
        by = of_rows(by, ids)
        if one_for_all(ids):
            return self.scaled(y, by)
        split, rows = self._split(), ops.shape(by)[0]
        if split.plain:
            flat = ops.reshape(y, (rows, -1, by.shape[-1]))
            return ops.reshape(flat * ops.expand_dims(by, 1), ops.shape(y))
        by = repeated(by, ops.shape(y)[0] // rows)
        by = ops.reshape(by, (-1, *split.shape_out))
        return ops.einsum(split.scale_rows, y, by)

    def call(self, inputs: Any, training: Any = None) -> Any:
        if not training:
            return self._inferred(inputs)
        if not self._has_one_product(inputs):
            return self._adapted("call", inputs)
        split = self._split()
        y = trained_product(
            split.flat_in(inputs),
            self.frozen_matrix(),
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

    def _inferred(self, x: Any) -> Any:
        """The output outside of training: one product where that pays."""
        if not self._takes_a_kernel():
            return self._adapted("call", x)
        lead = ops.shape(x)[: len(x.shape) - len(self._split().shape_in)]
        pays = pays_to_form(lead, *self._sizes())
        if isinstance(pays, bool):
            return self._formed(x) if pays else self._adapted("call", x)
        return ops.cond(
            pays, lambda: self._formed(x), lambda: self._adapted("call", x)
        )

    def _formed(self, x: Any) -> Any:
        """The host's own output with its updated kernel in place of its own."""
        kernel = surgery.kernel_of(self) + self.delta_kernel()
        return self.host_call("call", x, overrides={surgery.KERNEL: kernel})

    def _takes_a_kernel(self) -> bool:
        """Whether one product with `W + A B`, in float32, is exact."""
        return (
            self._split().plain
            and self.compute_dtype == "float32"
            and surgery.kernel_of(self).dtype == "float32"
        )

    def _has_one_product(self, x: Any) -> bool:
        """Whether that is so in training, and worth forming.

        It pays where a row of the batch holds many vectors. Dropout acts on
        the adapter's input alone.
        """
        return (
            self._takes_a_kernel()
            and not self.adapter_settings["dropout"]
            and len(x.shape) - len(self._split().shape_in) >= 2
        )


class DenseHost(LinearLoRA):
    """A `Dense` host."""

    units: int
    input_spec: Any

    def _split(self) -> Split:
        return split_equation(
            "...a,ab->...b", (self.input_spec.axes[-1], self.units)
        )


class EinsumDenseHost(LinearLoRA):
    """An `EinsumDense` host; a quantized one packs its kernel."""

    equation: str

    def _split(self) -> Split:
        shape = getattr(self, "original_kernel_shape", None)
        return split_equation(
            self.equation, tuple(shape or surgery.kernel_of(self).shape)
        )


@register
class LoRADense(LoRALayer, DenseHost, keras.layers.Dense):
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
    rank = Setting()

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
class LoRAEinsumDense(LoRALayer, EinsumDenseHost, keras.layers.EinsumDense):
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
    rank = Setting()

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
