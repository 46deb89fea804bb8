"""DoRA: a kernel's columns learn their lengths apart from their directions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from keras_lora.methods.host import Specs
from keras_lora.methods.lora.config import LowRankConfig
from keras_lora.methods.lora.dense import LinearLoRA, LoRADense, LoRAEinsumDense
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.lora.low_rank import (
    rank_and_alpha,
    register,
    wrong_low_rank,
)
from keras_lora.methods.lora.stack import LoRAStack
from keras_lora.methods.method import Method
from keras_lora.methods.stack import Arrays, Settings, Shapes
from keras_lora.model.surgery import Layer

SHORTEST = 1e-12


@dataclass(frozen=True)
class DoRAConfig(LowRankConfig):
    """LoRA whose columns also learn their lengths, on chosen layers.

    Each target with kernel `W` computes `x V * (|W| + magnitude) / |V|` with
    `V = W + A B * scale`, where `|.|` is the length of each column and takes
    no gradient. `A` starts random, `B` and `magnitude` at zero.

    Args:
        rank: Int above 0, as in `LoRAConfig`.
        alpha: Number above 0, as in `LoRAConfig`.
        dropout: Share of the input of `A` dropped in training, in [0, 1).
        targets: Which layers, as in `LoRAConfig`; `Dense` and `EinsumDense`.
        rank_pattern: Ranks that differ, as in `LoRAConfig`.
        alpha_pattern: The same for `alpha`.
        scale: `"lora"` or `"rslora"`, as in `LoRAConfig`.
        layers: Which blocks, as in `LoRAConfig`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.DoRAConfig(rank=2))
    ```

    References:
        - [DoRA: Weight-Decomposed Low-Rank Adaptation](
          https://arxiv.org/abs/2402.09353)
    """

    method = "dora"


def growth(w: Any, a: Any, b: Any, magnitude: Any) -> Any:
    """By which share each column grows: `(|W| + magnitude) / |W + A B| - 1`.

    The lengths take no gradient, and `W + A B` is not formed. Where `B` and
    `magnitude` are zero it is exactly zero.

    Args:
        w: Kernel (in, out).
        a: Factor (in, rank).
        b: Factor (rank, out), scale included.
        magnitude: Change of each column's length (out,).
    """
    squares = ops.sum(ops.square(w), axis=0)
    crossed = ops.sum(ops.matmul(ops.transpose(a), w) * b, axis=0)
    own = ops.sum(b * ops.matmul(ops.matmul(ops.transpose(a), a), b), axis=0)
    before = ops.sqrt(ops.maximum(squares, SHORTEST**2))
    after = ops.sqrt(ops.maximum(squares + 2 * crossed + own, SHORTEST**2))
    return (before + magnitude) / ops.stop_gradient(after) - 1


class DoRA(LinearLoRA):
    """A host whose columns learn direction and length apart."""

    method: ClassVar[str] = "dora"
    neutral_weights: ClassVar[tuple[str, ...]] = ("lora_b", "magnitude")

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        specs = super().weight_specs(settings)
        return {**specs, "magnitude": ((self._sizes()[1],), "zeros")}

    @property
    def magnitude(self) -> Any:
        """Variable (out,), float32: by how much each column got longer."""
        return self.adapter_weights["magnitude"]

    @property
    def growth(self) -> Any:
        """By which share each column grows (out,)."""
        w, b = self.kernel_matrix(), self.lora_b * self.lora_scale
        return growth(w, self.lora_a, b, self.magnitude)

    def adapted_product(self, x: Any, y: Any) -> Any:
        more = self.growth
        longer = self.scaled(self.unbiased(y), more)
        delta = self.scaled(self.delta(x), 1 + more)
        return y + ops.cast(longer + delta, y.dtype)

    def delta_kernel(self) -> Any:
        more = self.growth
        longer = self.kernel_matrix() * more
        return self._as_kernel(longer + self.update_matrix() * (1 + more))

    def _takes_a_kernel(self) -> bool:
        return False


@register
class DoRADense(DoRA, LoRADense):
    """A `Dense` layer with frozen weights and a trained DoRA update.

    Args:
        units: Int, width of the output.
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, units); the lengths' change is `magnitude` (units,). All
            are float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the input of `A` dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.Dense`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.DoRADense(16, rank=4, activation="relu")
    y = layer(np.ones((2, 8), "float32"))  # (2, 16)
    ```

    References:
        - [DoRA: Weight-Decomposed Low-Rank Adaptation](
          https://arxiv.org/abs/2402.09353)
    """

    _host_class = keras.layers.Dense


@register
class DoRAEinsumDense(DoRA, LoRAEinsumDense):
    """An `EinsumDense` layer with a trained DoRA update.

    The kernel counts as a matrix as in `LoRAEinsumDense`; its columns are
    what the lengths are of.

    Args:
        equation: As for `keras.layers.EinsumDense`.
        output_shape: As for `keras.layers.EinsumDense`.
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, out); the lengths' change is `magnitude` (out,). All are
            float32.
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the input of `A` dropped in training, in [0, 1).
        **kwargs: As for `keras.layers.EinsumDense`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    layer = keras_lora.DoRAEinsumDense(
        "bld,dhk->blhk", output_shape=(None, 12, 32), rank=8
    )
    y = layer(np.ones((2, 5, 384), "float32"))  # (2, 5, 12, 32)
    ```

    References:
        - [DoRA: Weight-Decomposed Low-Rank Adaptation](
          https://arxiv.org/abs/2402.09353)
    """

    _host_class = keras.layers.EinsumDense


def dora_class(layer: Layer) -> type | None:
    """The DoRA layer that can stand in for `layer`, or None."""
    found = {LoRADense: DoRADense, LoRAEinsumDense: DoRAEinsumDense}
    return found.get(lora_class(layer))  # type: ignore[arg-type]


class DoRAStack(LoRAStack):
    """Factors, and by which share each column grows, which is in `B` too."""

    reads: ClassVar[tuple[str, ...]] = ("inputs", "outputs", "kernel")

    def shapes(self, host: Any) -> Shapes:
        shapes = super().shapes(host)
        return {**shapes, "growth": (shapes["lora_b"][1],)}

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        values = super().values(host, settings, weights)
        a, b = values["lora_a"], values["lora_b"]
        factors = map(ops.convert_to_tensor, (a, b, weights["magnitude"]))
        more = growth(host.kernel_matrix(), *factors)
        more = ops.convert_to_numpy(more)
        return {"lora_a": a, "lora_b": b * (1 + more), "growth": more}

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        more = self.variables["growth"]
        longer = host.rows_scaled(host.unbiased(y), more, ids)
        return super().apply(host, x, y, ids) + ops.cast(longer, y.dtype)


DORA = Method(
    "dora",
    DoRAConfig,
    dora_class,
    rank_and_alpha,
    check=wrong_low_rank,
    stack=DoRAStack,
    reads_kernel=True,
)
