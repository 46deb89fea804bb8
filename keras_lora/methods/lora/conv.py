"""LoRA on convolutions of one, two and three dimensions."""

import math
from typing import Any, ClassVar

import keras
from keras import ops

from keras_lora.methods.lora.low_rank import LoRALayer, LowRank, Shown, register
from keras_lora.methods.stack import of_rows, places
from keras_lora.model import surgery


class ConvLoRA(LowRank):
    """A host that convolves its input with its kernel.

    `A` is a kernel with `rank` filters, shared by all groups, and `B` mixes
    what they find at each position.
    """

    groups: int
    filters: int
    data_format: str
    kernel = Shown()
    read_whole: ClassVar[tuple[str, ...]] = ("lora_a",)

    def _sizes(self) -> tuple[int, int]:
        *window, filters = surgery.kernel_of(self).shape
        return math.prod(window), filters

    def _project(self, x: Any, a: Any) -> Any:
        window = surgery.kernel_of(self).shape[:-1]
        a = ops.reshape(a, (*window, -1))
        if self.groups > 1:
            a = ops.tile(a, (1,) * len(window) + (self.groups,))
        return self.host_call(
            "call",
            x,
            overrides={
                surgery.KERNEL: a,
                "use_bias": False,
                "bias": None,
                "activation": None,
            },
        )

    def _expand(self, h: Any, b: Any) -> Any:
        ones = (1,) * (len(surgery.kernel_of(self).shape) - 2)
        b = ops.reshape(b, (*ones, -1, self.filters))
        return ops.conv(
            h, b, strides=1, padding="valid", data_format=self.data_format
        )

    def _rows_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        """Convolves with all slots' `A` at once, then picks each row's."""
        slots, size, rank = a.shape
        h = self._project(
            x, ops.reshape(ops.transpose(a, (1, 0, 2)), (size, -1))
        )
        if self.data_format == "channels_first":
            h = ops.moveaxis(h, 1, -1)
        place = ops.shape(h)[:-1]
        b, ids = of_rows(b, ids), places(ids, a)
        rows, groups = ops.shape(ids)[0], self.groups
        h = ops.reshape(h, (rows, -1, groups, slots, rank))
        h = ops.einsum("nsgkr,nk->nsgr", h, ops.one_hot(ids, slots))
        mix = ops.reshape(b, (rows, rank, groups, -1))
        y = ops.reshape(
            ops.einsum("nsgr,nrgf->nsgf", h, mix), (*place, self.filters)
        )
        if self.data_format == "channels_first":
            y = ops.moveaxis(y, -1, 1)
        return y

    def call(self, inputs: Any) -> Any:
        return self._adapted("call", inputs)


class ConvLoRALayer(LoRALayer, ConvLoRA):
    """The constructor that the three convolutions share."""

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self._set(rank, alpha, dropout)
        super().__init__(filters, kernel_size, **kwargs)  # type: ignore[call-arg]


@register
class LoRAConv1D(ConvLoRALayer, keras.layers.Conv1D):
    """A `Conv1D` layer with a trained low-rank update.

    `A` is a kernel of the host's size with `rank` filters, used with the
    host's strides, padding, dilation and groups; `B` mixes them at each
    position.

    Args:
        filters: Int, number of output channels.
        kernel_size: Int or tuple of one int.
        rank: Int above 0, the inner size of `A` (window, rank) and `B`
            (rank, filters), both float32. The window is the kernel's size
            times the input channels of a group.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the update's input dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.Conv1D`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.LoRAConv1D(16, 3, rank=4, padding="causal")
    y = layer(np.ones((2, 10, 8), "float32"))  # (2, 10, 16)
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.Conv1D


@register
class LoRAConv2D(ConvLoRALayer, keras.layers.Conv2D):
    """A `Conv2D` layer with a trained low-rank update; see `LoRAConv1D`.

    Args:
        filters: Int, number of output channels.
        kernel_size: Int or tuple of two ints.
        rank: Int above 0, the inner size of `A` (window, rank) and `B`
            (rank, filters), both float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the update's input dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.Conv2D`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.LoRAConv2D(16, 3, rank=4, strides=2)
    y = layer(np.ones((2, 9, 9, 8), "float32"))  # (2, 4, 4, 16)
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.Conv2D


@register
class LoRAConv3D(ConvLoRALayer, keras.layers.Conv3D):
    """A `Conv3D` layer with a trained low-rank update; see `LoRAConv1D`.

    Args:
        filters: Int, number of output channels.
        kernel_size: Int or tuple of three ints.
        rank: Int above 0, the inner size of `A` (window, rank) and `B`
            (rank, filters), both float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the update's input dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.Conv3D`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.LoRAConv3D(4, 3, rank=2)
    y = layer(np.ones((1, 5, 5, 5, 2), "float32"))  # (1, 3, 3, 3, 4)
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.Conv3D
