"""A training run as others see it: what it is to do, how far it is."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np

from app.learn.training import Settings
from app.texts.data import Splits


@dataclass(frozen=True)
class Job:
    """What is to be trained.

    Args:
        title: what people read; it names the file.
        labels: one a class.
        splits: the texts, as many as are to be used.
        settings: how; `epochs` is set.
    """

    title: str
    labels: tuple[str, ...]
    splits: Splits
    settings: Settings


@dataclass(frozen=True)
class Point:
    """One place on the curves, at so many training steps."""

    step: int
    loss: float
    accuracy: float
    part: str


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        accuracy: on the test texts, from 0 to 1.
        baselines: accuracy of each baseline on the same texts.
        confusion: texts of each true label (rows) by the label given.
        mistakes: (text, true label, label given, its probability).
        trainable, share: weights that trained, and their share of all.
        seconds: wall time of `fit`.
        stopped: whether it was ended before its last step.
        file: the adapter's bytes.
    """

    accuracy: float
    baselines: dict[str, float]
    confusion: np.ndarray
    mistakes: list[tuple[str, str, str, float]]
    trainable: int
    share: float
    seconds: float
    stopped: bool
    file: bytes


@dataclass
class Run:
    """A run as it goes on: written by its thread, read by any.

    Args:
        job: what is trained.
        phase: what is being done, for people.
        step, steps: training steps done, and in all.
        points: the curves so far.
        baselines: those that are known.
        outcome: what it came to, once done.
        error: why it failed, for people.
    """

    job: Job
    phase: str = "Waiting to start"
    step: int = 0
    steps: int = 0
    points: list[Point] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    error: str | None = None
    began_fit: float | None = None
    done: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ends the run after the step it is in; what was trained is kept."""
        self.stopping.set()

    def leave(self) -> None:
        """Ends the run and keeps nothing: nobody waits for it any more."""
        self.left.set()
        self.stopping.set()

    @property
    def seconds_left(self) -> float | None:
        """Of `fit`, from the steps so far; None before there are a few."""
        if self.began_fit is None or self.step < 3:
            return None
        each = (time.perf_counter() - self.began_fit) / self.step
        return each * (self.steps - self.step)
