"""The ways to train that `benchmarks.images` compares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig

POINTWISE = r"block\d+_(expand|project)|top_conv"
LAST_BLOCKS = r"block1[2-5]_(expand|project)|top_conv"
PROBE = "frozen probe"
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Values of the probe's `C` that the validation images choose from."""


@dataclass(frozen=True)
class Side:
    """A way to train the base and a head on it.

    Attributes:
        rates: Learning rates to choose from.
        config: What is attached; None where the base itself trains.
        norms: Whether the base's norms train, their mean and variance
            included. Those of a base with adapters never do.
        once: Whether what comes before the first adapter is computed once.
    """

    rates: tuple[float, ...]
    config: Any = None
    norms: bool = False
    once: bool = False


SIDES: dict[str, Side] = {
    "full fine-tuning": Side((1e-4, 3e-4, 1e-3)),
    "LoRA": Side((1e-3, 3e-3, 1e-2), LoRAConfig(targets=POINTWISE)),
    "LoRA, last 4 blocks": Side(
        (1e-3, 3e-3, 1e-2), LoRAConfig(targets=LAST_BLOCKS), once=True
    ),
    "bottlenecks": Side(
        (1e-3, 3e-3, 1e-2),
        AdapterConfig(bottleneck=16, targets=r"block\d+_output"),
    ),
    "full fine-tuning, BatchNorm trains": Side((1e-4, 3e-4, 1e-3), norms=True),
}


@dataclass(frozen=True)
class Part:
    """Pictures, uint8 (n, size, size, 3), and their labels."""

    x: np.ndarray
    y: np.ndarray


def probe(base: Any, parts: dict[str, Part]) -> dict[str, Any]:
    """A logistic regression on the frozen base's features."""
    x = {
        n: base.predict(p.x, batch_size=100, verbose=0)
        for n, p in parts.items()
    }
    tried = []
    for strength in STRENGTHS:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=1000)
        )
        model.fit(x["train"], parts["train"].y)
        score = model.score(x["validation"], parts["validation"].y)
        tried.append((score, -strength, model))
    validation, _, model = max(tried, key=lambda one: one[:2])
    linear = model[-1]
    return {
        "validation": validation,
        "test": model.score(x["test"], parts["test"].y),
        "parameters": linear.coef_.size + linear.intercept_.size,
    }


def attach(base: Any, side: Side, classes: int) -> Any:
    """The base with a side's adapters and a new head."""
    if side.config is not None:
        keras_lora.inject(base, side.config)
    elif not side.norms:
        # `base(x, training=False)` would not do: `fit` overrides it.
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    head = keras.layers.Dense(classes, name="head")
    return keras.Model(base.input, head(base(base.input)))


def schedule(rate: float, steps: int) -> Any:
    """A rate that rises for a tenth of the steps, then falls to zero."""
    rise = steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rise, warmup_target=rate, warmup_steps=rise
    )


def train(
    model: Any,
    side: Side,
    part: Part,
    rate: float,
    *,
    epochs: int,
    batch: int,
    each: Callable[[], None],
) -> None:
    """Trains the model as the side does; `each` is called after each epoch."""
    trained, data = model, {"x": part.x, "y": part.y, "batch_size": batch}
    if side.once:
        frozen, trained = keras_lora.split(model)
        data = {
            "x": keras_lora.precompute(
                frozen, part.x, y=part.y, batch_size=batch, verbose=0
            )
        }
    steps = epochs * -(-len(part.y) // batch)
    trained.compile(
        keras.optimizers.Adam(schedule(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: each()
    )
    trained.fit(**data, epochs=epochs, callbacks=[after], verbose=0)
