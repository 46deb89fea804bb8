"""The methods that `benchmarks.methods` compares, and how much it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

import keras_lora
from keras_lora import (
    EVA,
    AdapterConfig,
    DoRAConfig,
    IA3Config,
    LoRAConfig,
    SideConfig,
    lora_plus,
)

LORA_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
LOW_RATES = (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)
BOTTLENECK_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)


@dataclass(frozen=True)
class Plan:
    """How much each run trains.

    Attributes:
        texts: Training texts at most; None for all.
        epochs: Passes over them.
    """

    name: str
    texts: int | None
    epochs: int


QUICK = Plan("quick", 512, 2)
FULL = Plan("full", None, 3)


@dataclass(frozen=True)
class Method:
    """A way to train the base for a task.

    Attributes:
        attach: Changes a base so that the right weights train; given the
            base and a few batches of training inputs.
        rates: Learning rates to choose from, rising.
        optimizer: Makes the optimizer of a schedule.
        mode: How the base is quantized first, if it is.
        keeps_base: Whether the base can be used again.
    """

    attach: Callable[[Any, list[Any]], Any]
    rates: tuple[float, ...] = LORA_RATES
    optimizer: Callable[[Any], Any] = keras.optimizers.Adam
    mode: str | None = None
    keeps_base: bool = True


def injecting(config: Any, **options: Any) -> Callable[[Any, Any], Any]:
    """Attaches what a config says."""
    return lambda base, batches: keras_lora.inject(base, config, **options)


METHODS: dict[str, Method] = {
    "lora": Method(injecting(LoRAConfig())),
    "full fine-tuning": Method(
        lambda base, batches: base,
        (2e-5, 5e-5, 1e-4, 2e-4, 4e-4),
        keeps_base=False,
    ),
    "houlsby": Method(
        injecting(AdapterConfig(placement="houlsby")), BOTTLENECK_RATES
    ),
    "pfeiffer": Method(injecting(AdapterConfig()), BOTTLENECK_RATES),
    "parallel": Method(
        injecting(AdapterConfig(placement="parallel", scale=4.0)),
        BOTTLENECK_RATES,
    ),
    "dora": Method(injecting(DoRAConfig())),
    "ia3": Method(injecting(IA3Config()), (2e-3, 5e-3, 1e-2, 2e-2, 4e-2)),
    "lora+": Method(
        injecting(LoRAConfig()),
        (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3),
        lambda rate: lora_plus(keras.optimizers.Adam(rate), 16),
    ),
    "rslora": Method(injecting(LoRAConfig(scale="rslora"))),
    "ladder": Method(injecting(SideConfig())),
    # Where factors start large, a step moves their product further.
    "svd": Method(injecting(LoRAConfig(init="svd")), LOW_RATES),
    "svd-minor": Method(injecting(LoRAConfig(init="svd-minor"))),
    "eva": Method(
        lambda base, batches: keras_lora.inject(
            base, LoRAConfig(init=EVA(batches, rho=2.0))
        ),
        LOW_RATES,
    ),
    "lora, last 2 blocks": Method(
        injecting(LoRAConfig(layers=slice(-2, None)))
    ),
    "lora on int8": Method(
        injecting(LoRAConfig()), mode="int8", keeps_base=False
    ),
    "lora on int4": Method(
        injecting(LoRAConfig()), mode="int4", keeps_base=False
    ),
}
"""The most wanted come first: a measurement may be cut."""
