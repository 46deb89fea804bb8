"""A training run as others see it: what it is to do, how far it is."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.learn.baselines import Probe
from app.learn.estimate import Pace
from app.learn.training import Settings
from app.texts.data import Split, Splits


@dataclass(frozen=True)
class Job:
    """What is to be trained.

    Args:
        title: what people read; it names the file.
        labels: one for each class.
        splits: the texts, as many as are to be used.
        settings: how; `epochs` is set.
        start: an adapter file to go on from; None for a fresh adapter.
        corrections: texts that an earlier adapter got wrong; they are among
            the training texts.
    """

    title: str
    labels: tuple[str, ...]
    splits: Splits
    settings: Settings
    start: Path | None = None
    corrections: Split | None = None


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
        right, held_out: test texts that are answered rightly, and all.
        baselines: accuracy of each baseline on the same texts.
        probe: the baseline that reads the frozen base's features.
        confusion: texts of each true label (rows) by the label given.
        mistakes: (text, true label, label given, its probability).
        trainable, share: weights that trained, and their share of all.
        seconds: wall time of `fit`.
        stopped: whether it was ended before its last step.
        file: the adapter's bytes.
        corrected: corrections that are answered rightly now; None where
            there were none.
    """

    right: int
    held_out: int
    baselines: dict[str, float]
    probe: Probe
    confusion: np.ndarray
    mistakes: list[tuple[str, str, str, float]]
    trainable: int
    share: float
    seconds: float
    stopped: bool
    file: bytes
    corrected: int | None = None

    @property
    def accuracy(self) -> float:
        """On the test texts, from 0 to 1."""
        return self.right / self.held_out


@dataclass
class Run:
    """A run as it goes on: written by its thread, read by any.

    Args:
        job: what is trained.
        phase: what is being done, for people; see `enter`.
        step, steps: training steps done, and in all.
        points: the curves so far.
        baselines: those that are known.
        pace: how fast it goes, once a step is done.
        outcome: what it came to, once done.
        error: why it failed, for people.
    """

    job: Job
    phase: str = "Waiting to start"
    step: int = 0
    steps: int = 0
    points: list[Point] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    outcome: Outcome | None = None
    error: str | None = None
    done: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    _entered: float = field(default_factory=time.perf_counter)

    def enter(self, phase: str) -> None:
        """Says what is being done from now on."""
        self.phase, self._entered = phase, time.perf_counter()

    @property
    def seconds_in_phase(self) -> float:
        """How long it has been doing that."""
        return time.perf_counter() - self._entered

    def stop(self) -> None:
        """Ends the run after the step it is in; what was trained is kept."""
        self.stopping.set()

    def leave(self) -> None:
        """Ends the run and keeps nothing: nobody waits for it any more."""
        self.left.set()
        self.stopping.set()

    @property
    def seconds_left(self) -> float | None:
        """Of `fit`, from its warm steps; None before there are some."""
        return self.pace.seconds_left(self.step, self.steps)
