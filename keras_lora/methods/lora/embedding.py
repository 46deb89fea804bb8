"""LoRA on tables: `Embedding`, and tied ones that project back."""

from typing import Any, ClassVar

import keras
from keras import ops

from keras_lora.methods.host import Setting
from keras_lora.methods.lora.low_rank import LoRALayer, LowRank, Shown, register
from keras_lora.methods.stack import of_rows, one_for_all, places
from keras_lora.model import graphs


class EmbeddingLoRA(LowRank):
    """A host that looks rows of its table up."""

    input_dim: int
    output_dim: int
    embeddings = Shown()
    read_whole: ClassVar[tuple[str, ...]] = ("lora_a",)

    def _sizes(self) -> tuple[int, int]:
        return self.input_dim, self.output_dim

    def _project(self, x: Any, a: Any) -> Any:
        return ops.take(a, ops.cast(x, "int32"), axis=0)

    def _expand(self, h: Any, b: Any) -> Any:
        return ops.matmul(h, b)

    def _rows_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        b, ids = of_rows(b, ids), places(ids, a)
        rows, rank = ops.shape(ids)[0], a.shape[-1]
        tokens = ops.reshape(ops.cast(x, "int32"), (rows, -1))
        # A number outside of the table must not reach another slot's rows;
        # -1 is the last row, as in the table itself.
        tokens = ops.where(tokens < 0, tokens + self.input_dim, tokens)
        tokens = ops.clip(tokens, 0, self.input_dim - 1)
        found = tokens + ops.expand_dims(ids, 1) * self.input_dim
        h = ops.take(ops.reshape(a, (-1, rank)), found, axis=0)
        y = ops.matmul(h, b)
        return ops.reshape(y, (*ops.shape(x), self.output_dim))

    def dropped(self, x: Any) -> Any:
        """Rows of a table are not dropped: the input is their numbers."""
        return x

    def _adapted(self, method: str, x: Any) -> Any:
        y = self.host_call(method, x)
        return graphs.keep_mask(y, self.adapted_product(x, y))

    def call(self, inputs: Any) -> Any:
        return self._adapted("call", inputs)

    def quantized_call(self, inputs: Any) -> Any:
        return self._adapted("quantized_call", inputs)


class TiedEmbeddingLoRA(EmbeddingLoRA):
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
        b = self.lora_b * self.lora_scale
        return self._transposed(ops.cast(x, "float32"), self.lora_a, b)

    def _transposed(self, x: Any, a: Any, b: Any) -> Any:
        h = ops.matmul(x, ops.swapaxes(b, -1, -2))
        return ops.matmul(h, ops.swapaxes(a, -1, -2))

    def rows_reverse_delta(self, x: Any, a: Any, b: Any, ids: Any) -> Any:
        """The same with each row's own factors; see `rows_delta`."""
        x = ops.cast(x, "float32")
        a, b = of_rows(a, ids), of_rows(b, ids)
        if one_for_all(ids):
            return self._transposed(x, a, b)
        flat = ops.reshape(x, (ops.shape(a)[0], -1, self.output_dim))
        y = self._transposed(flat, a, b)
        return ops.reshape(y, (*ops.shape(x)[:-1], self.input_dim))


@register
class LoRAEmbedding(LoRALayer, EmbeddingLoRA, keras.layers.Embedding):
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
    rank = Setting()
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


class LoRAReversibleEmbedding(TiedEmbeddingLoRA, LoRAEmbedding):
    """What `inject` puts in place of a tied embedding."""
