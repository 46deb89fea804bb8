"""LoRA on tables: `Embedding`, and tied ones that project back."""

from typing import Any

import keras
from keras import ops

from keras_lora import surgery
from keras_lora.lora import ByHand, LowRank, register


class Looked(LowRank):
    """A host that looks rows of its table up."""

    input_dim: int
    output_dim: int

    def _sizes(self) -> tuple[int, int]:
        return self.input_dim, self.output_dim

    def delta(self, x: Any) -> Any:
        return self._expand(self._project(x) * self.lora_scale)

    def _project(self, x: Any) -> Any:
        return ops.take(self.lora_a, ops.cast(x, "int32"), axis=0)

    def _expand(self, h: Any) -> Any:
        return ops.matmul(h, self.lora_b)

    def _adapted(self, method: str, x: Any) -> Any:
        y = self.host_call(method, x)
        return surgery.keep_mask(y, y + ops.cast(self.delta(x), y.dtype))

    def call(self, inputs: Any) -> Any:
        return self._adapted("call", inputs)

    def quantized_call(self, inputs: Any) -> Any:
        return self._adapted("quantized_call", inputs)


class LookedBothWays(Looked):
    """A table that also projects back onto its rows (tied logits)."""

    tie_weights: bool
    logit_soft_cap: float | None

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        return self._both("call", inputs, reverse)

    def quantized_call(self, inputs: Any, reverse: bool = False) -> Any:
        return self._both("quantized_call", inputs, reverse)

    def _both(self, method: str, x: Any, reverse: bool) -> Any:
        if not reverse:
            return self._adapted(method, x)
        if not self.tie_weights:
            return self.host_call(method, x, reverse=True)
        logits = self.host_call(
            method, x, reverse=True, overrides={"logit_soft_cap": None}
        )
        logits = logits + ops.cast(self._reverse_delta(x), logits.dtype)
        cap = self.logit_soft_cap
        return logits if cap is None else ops.tanh(logits / cap) * cap

    def _reverse_delta(self, x: Any) -> Any:
        """`x (A B)` transposed: `(x B') A'`, in float32."""
        h = ops.matmul(ops.cast(x, "float32"), ops.transpose(self.lora_b))
        return ops.matmul(h * self.lora_scale, ops.transpose(self.lora_a))


@register
class LoRAEmbedding(ByHand, Looked, keras.layers.Embedding):
    """An `Embedding` layer with a trained low-rank update.

    Rows of `A` are looked up and multiplied by `B`: no tensor of the table's
    size is formed.

    Args:
        input_dim: Int, number of rows of the table.
        output_dim: Int, width of a row.
        rank: Int above 0, the inner size of `A` (input_dim, rank) and `B`
            (rank, output_dim), both float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        **kwargs: As for `keras.layers.Embedding`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.LoRAEmbedding(1000, 64, rank=4)
    y = layer(np.array([[1, 2, 3]]))  # (1, 3, 64)
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    _host_class = keras.layers.Embedding
    named_settings = ("rank", "alpha")

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        rank: int = 8,
        alpha: float = 16,
        **kwargs: Any,
    ) -> None:
        self._set(rank, alpha)
        super().__init__(input_dim, output_dim, **kwargs)


class LoRAReversibleEmbedding(LookedBothWays, LoRAEmbedding):
    """What `inject` puts in place of a tied embedding."""
