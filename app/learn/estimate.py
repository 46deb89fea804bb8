"""What a training run will cost, told before it starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.learn.training import Settings

STEP_IN_FORWARDS = 2.3
"""One training step of the adapter, in forward passes of its batch."""

FIXED_SECONDS = 12.0
"""A copy of the base, and tracing the training and the test step."""


def costs(info: Any) -> dict[str, int]:
    """Values that an adapter file holds for each layer, from its header."""
    return {
        path: sum(
            math.prod(shape)
            for key, (_, shape) in info.tensors.items()
            if key.rpartition("/")[0] == path
        )
        for path in info.layers
    }


def trainable_parameters(
    low_rank: Mapping[str, int],
    bottlenecks: Mapping[str, int],
    features: int,
    classes: int,
    settings: Settings,
) -> int:
    """Weights that would train, the head's included.

    Args:
        low_rank: what rank 1 costs on each layer that LoRA may sit on.
        bottlenecks: what an inner width of 1 costs likewise.
        features: width of the base's output.
        classes: outputs of the head.
        settings: how the adapter would be trained.
    """
    head = (features + 1) * classes
    if settings.method == "bottleneck":
        # Width 1 costs down (w), its bias (1), up (w) and its bias (w).
        widths = [(cost - 1) // 3 for cost in bottlenecks.values()]
        inner = settings.bottleneck
        return head + sum(2 * w * inner + w + inner for w in widths)
    chosen = settings.targets
    ends = sum(
        cost
        for path, cost in low_rank.items()
        if chosen == "all-linear" or path.rpartition("/")[2] in chosen
    )
    return head + settings.rank * ends


def target_groups(paths: Sequence[str]) -> list[str]:
    """The last names of the layers that can be adapted, each once."""
    return list(dict.fromkeys(path.rpartition("/")[2] for path in paths))


def training_seconds(
    seconds_per_token: float,
    tokens: float,
    train: int,
    held_out: int,
    epochs: int,
) -> float:
    """A rough estimate of a whole run, baselines and test included.

    Args:
        seconds_per_token: of the base's forward pass on this machine.
        tokens: mean length of a text.
        train: training texts.
        held_out: validation and test texts.
        epochs: passes over the training texts.
    """
    forward = seconds_per_token * tokens
    fit = epochs * (train * STEP_IN_FORWARDS + held_out / 2) * forward
    return FIXED_SECONDS + fit + (train + 2 * held_out) * forward


def duration(seconds: float) -> str:
    """Seconds for people: "40 s", "3 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    return f"{seconds / 60:.0f} min"
