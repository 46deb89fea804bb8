"""What a training run will cost, told before it starts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.learn.training import Settings

PADDED = 1.9
"""How much longer a token of a task's texts takes than one of a full batch:
batches are padded to their longest text."""

STEP_IN_FORWARDS = 2.0
"""One training step of the adapter, in forward passes of its batch."""

STEP_SHARES = {"lora": 1.0, "bottleneck": 0.85, "side": 0.56}
"""A step of each method over one of LoRA: `benchmarks.methods --time`."""

FIXED_IN_TRACES = 19.0
"""A copy of the base, and tracing the training and the test step, in times of
what the bank's first call takes, which traces the forward pass."""

PROBE_IN_FORWARDS = 3.5
"""What the baselines take for each training text, in its forward passes: the
features, and a logistic regression at several strengths."""

VALIDATION_TRACE = 0.3
"""Tracing the test step, in times of the first training step."""


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
    ladders: Mapping[int, int],
    features: int,
    classes: int,
    settings: Settings,
) -> int:
    """Weights that would train, the head's included.

    Args:
        low_rank: what rank 1 costs on each layer that LoRA may sit on.
        bottlenecks: what an inner width of 1 costs likewise.
        ladders: what a ladder of each width costs.
        features: width of the base's output.
        classes: outputs of the head.
        settings: how the adapter would be trained.
    """
    head = (features + 1) * classes
    if settings.method == "side":
        return head + ladders[settings.width]
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


@dataclass(frozen=True)
class Speeds:
    """How fast a machine trains.

    Args:
        forward: seconds a token of the base's forward pass.
        step: seconds a token of a training step, warm.
        fixed: seconds that a run takes beside: the base is copied, and
            functions are traced.
    """

    forward: float
    step: float
    fixed: float

    @classmethod
    def guessed(cls, forward: float, trace: float) -> "Speeds":
        """LoRA's, before anything was trained: from the forward pass.

        Args:
            forward: seconds a token of a full batch.
            trace: seconds that the bank's first call took.
        """
        forward *= PADDED
        return cls(forward, STEP_IN_FORWARDS * forward, FIXED_IN_TRACES * trace)

    def of(self, method: str) -> "Speeds":
        """Those of a method, where these are of LoRA."""
        return replace(self, step=STEP_SHARES[method] * self.step)


@dataclass
class Pace:
    """How fast a run's `fit` goes; its functions are traced on the way.

    Attributes:
        steps: seconds of each training step. The first one is traced, and a
            later one may be, when a batch has another shape.
        validations: seconds of each validation; the first one is traced.
        batches: training steps in an epoch.
    """

    steps: list[float] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    batches: int = 1

    @property
    def warm_step(self) -> float | None:
        """Seconds of a training step that is not traced, once known."""
        later = self.steps[1:]
        return statistics.median(later) if len(later) >= 2 else None

    def seconds_left(self, step: int, steps: int) -> float | None:
        """Of `fit`, after so many of its steps; None while it is not known."""
        warm = self.warm_step
        if warm is None:
            return None
        to_come = -(-(steps - step) // self.batches)
        each = min(self.validations, default=warm)
        first = 0.0 if self.validations else VALIDATION_TRACE * self.steps[0]
        return warm * (steps - step) + each * to_come + first


def training_seconds(
    speeds: Speeds, tokens: float, train: int, held_out: int, epochs: int
) -> float:
    """What a whole run takes, baselines and test included.

    Args:
        speeds: of this machine.
        tokens: mean length of a text.
        train: training texts.
        held_out: validation and test texts.
        epochs: passes over the training texts.
    """
    step = epochs * train * speeds.step
    passes = epochs * held_out / 2 + passes_beside(train, held_out)
    forward = passes * speeds.forward
    return speeds.fixed + (step + forward) * tokens


def passes_beside(train: int, held_out: int) -> float:
    """What baselines and test take, in forward passes of a text."""
    return PROBE_IN_FORWARDS * train + 2 * held_out


def measured_speeds(
    before: Speeds,
    pace: Pace,
    whole: float,
    tokens: float,
    texts: int,
    train: int,
    held_out: int,
) -> Speeds:
    """The speeds that a finished run shows.

    Args:
        before: what was believed.
        pace: the run's.
        whole: seconds from its start to its end.
        tokens: mean length of its training texts.
        texts: training texts in a step.
        train: training texts.
        held_out: validation and test texts.
    """
    warm = pace.warm_step
    if warm is None:
        return before
    step = warm / (tokens * texts)
    forward = min(before.forward, step / STEP_IN_FORWARDS)
    known = warm * len(pace.steps)
    known += min(pace.validations, default=0.0) * len(pace.validations)
    known += passes_beside(train, held_out) * forward * tokens
    return Speeds(forward, step, max(0.0, whole - known))


def duration(seconds: float) -> str:
    """Seconds for people: "40 s", "3 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    return f"{seconds / 60:.0f} min"
