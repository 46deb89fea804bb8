"""VeRA: random factors that all layers share, and two vectors a layer."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods.host import Specs
from keras_lora.methods.lora import LoRAStack, lora_class
from keras_lora.methods.lora.dense import LinearLoRA
from keras_lora.methods.method import Method, Plan
from keras_lora.methods.stack import Arrays, Settings
from keras_lora.model.classes import class_on
from keras_lora.model.surgery import Layer
from keras_lora.settings import (
    is_int,
    positive_int,
    share,
    wrong_layers,
    wrong_targets,
)
from keras_lora.targets import (
    ALL_LINEAR,
    Blocks,
    Targets,
    in_blocks,
    linear_targets,
)


@dataclass(frozen=True)
class VeRAConfig:
    """Two trained vectors a layer around random factors that all layers share.

    Each target with kernel `W` computes `x W + ((x A) * d B) * b`. `A` and `B`
    are random, follow from `seed` and are in no file; `d` starts at 0.1 and
    `b` at zero. Layers of other widths take a part of the same factors.

    Args:
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, out); larger than LoRA's, since only `d` (rank,) and `b`
            (out,) train.
        dropout: Share of the input of `A` dropped in training, in [0, 1).
        targets: Which `Dense` and `EinsumDense` layers, as in `LoRAConfig`.
        layers: Which blocks, as in `LoRAConfig`.
        seed: Int from 0, what the factors are drawn from.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.VeRAConfig(rank=16))
    ```

    References:
        - [VeRA: Vector-based Random Matrix Adaptation](
          https://arxiv.org/abs/2310.11454)
    """

    rank: int = 256
    dropout: float = 0.0
    targets: Targets = ALL_LINEAR
    layers: Blocks | None = None
    seed: int = 0

    method = "vera"

    def __post_init__(self) -> None:
        problems = wrong_vera(vars(self)) + wrong_targets(self.targets)
        raise_if("VeRAConfig", problems + wrong_layers(self.layers))

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Vectors on linear layers."""
        targets, problems = linear_targets(
            layers, self.targets, trained, method.layer
        )
        targets, outside = in_blocks(layers, targets, self.layers)
        settings = {
            "method": self.method,
            "rank": int(self.rank),
            "dropout": float(self.dropout),
            "seed": int(self.seed),
        }
        return Plan(
            {path: dict(settings) for path in targets}, problems + outside
        )


def wrong_vera(settings: Settings) -> list[str]:
    """Says what of VeRA's settings is missing or out of range."""
    seed = settings.get("seed")
    problems = positive_int("rank", settings.get("rank"))
    problems += share("dropout", settings.get("dropout"))
    if not is_int(seed) or not 0 <= seed < 2**32:
        problems.append(
            f"`seed` must be an int from 0. Received: seed={seed!r}"
        )
    return problems


@functools.lru_cache(maxsize=64)
def random_rows(seed: int, size: int, rank: int) -> Any:
    """The first `size` rows of a random matrix with `rank` columns.

    The bits of this generator are the same in every NumPy.
    """
    numbers = np.random.RandomState(seed).uniform(-1, 1, (size, rank))
    return (numbers * np.sqrt(3 / rank)).astype("float32")


def random_factors(host: Any, settings: Settings) -> tuple[Any, Any]:
    """`A` (in, rank) and `B` (rank, out), as they were drawn."""
    (size_in, size_out), rank = host._sizes(), settings["rank"]
    a = random_rows(settings["seed"], size_in, rank)
    b = random_rows(settings["seed"] + 1, size_out, rank)
    return a, b.T


class VeRA(LinearLoRA):
    """A host whose factors are random, scaled by what trains."""

    neutral_weights: ClassVar[tuple[str, ...]] = ("vera_b",)
    fast_weights: ClassVar[tuple[str, ...]] = ()
    lora_scale = 1.0  # type: ignore[assignment]

    def weight_specs(self, settings: Settings) -> Specs:
        tenth = keras.initializers.Constant(0.1)
        return {
            "vera_d": ((settings["rank"],), tenth),
            "vera_b": ((self._sizes()[1],), "zeros"),
        }

    @property
    def lora_a(self) -> Any:
        """`A` with its columns scaled (in, rank)."""
        a, _ = random_factors(self, self.adapter_settings)
        return ops.convert_to_tensor(a) * ops.convert_to_tensor(
            self.adapter_weights["vera_d"]
        )

    @property
    def lora_b(self) -> Any:
        """`B` with its columns scaled (rank, out)."""
        _, b = random_factors(self, self.adapter_settings)
        return ops.convert_to_tensor(b) * ops.convert_to_tensor(
            self.adapter_weights["vera_b"]
        )


def vera_class(layer: Layer) -> Any:
    """The class that makes a layer a host of the vectors, or None."""
    plain: Any = lora_class(layer)
    if plain is None or not issubclass(plain, LinearLoRA):
        return None
    return class_on(plain, VeRA)


class VeRAStack(LoRAStack):
    """Served as LoRA is, with factors made whole."""

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        a, b = random_factors(host, settings)
        factors = {
            "lora_a": a * weights["vera_d"],
            "lora_b": b * weights["vera_b"],
        }
        settings = {**settings, "alpha": settings["rank"]}
        return super().values(host, settings, factors)


VERA = Method(
    "vera",
    VeRAConfig,
    vera_class,
    lambda settings, weights: f"rank {settings['rank']}",
    check=wrong_vera,
    stack=VeRAStack,
)
