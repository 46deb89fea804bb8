"""Training for visitors: one run at a time, beside the shared base."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.baselines import Probe, bag_of_words, frozen_probe
from app.learn.batches import predict_texts
from app.learn.estimate import Speeds, measured_speeds
from app.learn.training import (
    BAG_OF_WORDS,
    FROZEN_FEATURES,
    adapted_model,
    fit,
    resumed_model,
)
from app.serve.job import Job, Outcome, Point, Run
from app.serve.messages import message_of
from app.serve.served import softmax
from app.serve.service import Source
from app.texts.data import Split, Splits, draw, take

AWAY_SECONDS = 30.0
"""How long a visitor may be gone, on a bad line, before a run is ended."""

LOOK_SECONDS = 1.0
"""How often it is looked whether the visitor is there."""

MOST_HELD_OUT = 400
"""Validation and test texts that a run looks at, so that it ends soon."""


class Busy(ValueError):
    """Someone else is training."""


class Stopped(Exception):
    """The run was stopped before its first step, or its visitor has left."""


class Trainer:
    """Runs one job at a time in a thread, on a copy of the base.

    Args:
        source: where the copy and the tokenizer come from.

    Attributes:
        current: the run that is under way.
        speeds: what the last run showed of this machine, by method.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.current: Run | None = None
        self.speeds: dict[str, Speeds] = {}

    def start(self, job: Job, here: Callable[[], bool] = lambda: True) -> Run:
        """Starts a job in the background.

        Args:
            job: what is to be trained.
            here: whether who started it is still there; where that is not so
                for `AWAY_SECONDS`, the run ends and the next one may start.

        Raises:
            Busy: another one is running.
        """
        if not self._lock.acquire(blocking=False):
            raise Busy(
                "Someone else is training right now. One run goes at a time, "
                "so that everyone's answers stay quick; try again in a minute."
            )
        run = self.current = Run(job)
        try:
            threading.Thread(
                target=self._run, args=(run,), name="training", daemon=True
            ).start()
        except BaseException:
            self._lock.release()
            raise
        threading.Thread(
            target=_mind, args=(run, here), name="minding", daemon=True
        ).start()
        return run

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._lock.locked()

    def _run(self, run: Run) -> None:
        try:
            run.outcome = _train(run, self._source, self.speeds)
            run.enter("Done")
        except Stopped:
            run.error = (
                "Its page was closed: nothing was kept."
                if run.left.is_set()
                else "Stopped before the first step: nothing was trained."
            )
        except Exception as error:
            run.error = message_of(error)
        finally:
            self.current = None
            self._lock.release()
            run.done.set()


def _mind(run: Run, here: Callable[[], bool]) -> None:
    """Ends a run whose visitor has left."""
    seen = time.monotonic()
    while not run.done.wait(LOOK_SECONDS):
        if here():
            seen = time.monotonic()
        elif time.monotonic() - seen > AWAY_SECONDS:
            return run.leave()


def smaller(splits: Splits, train: int, seed: int = 0) -> Splits:
    """At most so many training texts, and fewer held-out ones, by class."""

    def some(part: Split, most: int) -> Split:
        return take(part, draw(part.labels, most, seed))

    return Splits(
        some(splits.train, train),
        some(splits.validation, MOST_HELD_OUT // 2),
        some(splits.test, MOST_HELD_OUT),
    )


def _train(
    run: Run, source: Source, speeds: dict[str, Speeds] | None = None
) -> Outcome:
    job, settings = run.job, run.job.settings
    begun = time.perf_counter()
    run.enter("Loading a copy of the base")
    base = source.load_base(None)
    tokenizer = source.make_tokenizer(None)
    probe, weights = (
        _measure_baselines(run, base, tokenizer),
        base.count_params(),
    )
    run.enter("Preparing the training step (the first step traces it)")
    keras.utils.set_random_seed(settings.seed)
    if job.start is None:
        model = adapted_model(base, len(job.labels), settings)
    else:
        model = resumed_model(base, job.start)
    trainable = keras_lora.summary(model).trainable
    size, epochs = settings.batch_size, settings.epochs or 1
    run.pace.batches = -(-len(job.splits.train) // size)
    run.steps = epochs * run.pace.batches
    start = time.perf_counter()
    fit(model, job.splits, tokenizer, epochs, settings, [Watch(run)])
    seconds = time.perf_counter() - start
    if not run.step:
        raise Stopped
    run.enter("Testing on held-out texts")

    def answers(texts: list[str]) -> np.ndarray:
        return predict_texts(
            model, texts, tokenizer, each=lambda: _end_if(run.left)
        )

    test, corrections = job.splits.test, job.corrections
    logits = answers(test.texts)
    given = logits.argmax(-1)
    corrected = None
    if corrections is not None:
        now = answers(corrections.texts).argmax(-1)
        corrected = int(np.sum(now == corrections.labels))
    outcome = Outcome(
        right=int(np.sum(given == test.labels)),
        held_out=len(test),
        baselines=dict(run.baselines),
        probe=probe,
        confusion=_confusion(test.labels, given, len(job.labels)),
        mistakes=_mistakes(test, logits, job.labels),
        trainable=trainable,
        share=trainable / (weights + trainable),
        seconds=seconds,
        stopped=run.step < run.steps,
        file=_file_of(model, job.labels),
        corrected=corrected,
    )
    warm = run.pace.warm_step is not None
    if speeds is not None and warm and not outcome.stopped:
        known = tokenizer.encode(job.splits.train.texts[:500])
        tokens = sum(map(len, known)) / len(known)
        before = speeds.get(settings.method) or Speeds(float("inf"), 0.0, 0.0)
        whole = time.perf_counter() - begun
        speeds[settings.method] = measured_speeds(
            before,
            run.pace,
            whole,
            tokens,
            size,
            len(job.splits.train),
            len(job.splits.validation) + len(job.splits.test),
        )
    return outcome


def _measure_baselines(run: Run, base: Any, tokenizer: Any) -> Probe:
    def phase(name: str) -> None:
        _end_if(run.stopping)
        run.enter(f"Measuring the baseline: {name}")

    phase(BAG_OF_WORDS)
    run.baselines[BAG_OF_WORDS] = bag_of_words(run.job.splits)
    phase(FROZEN_FEATURES)
    probe = frozen_probe(
        base,
        run.job.splits,
        tokenizer,
        lambda: _end_if(run.stopping),
        classes=len(run.job.labels),
    )
    run.baselines[FROZEN_FEATURES] = probe.accuracy
    return probe


def _end_if(event: threading.Event) -> None:
    if event.is_set():
        raise Stopped


class Watch(keras.callbacks.Callback):
    """Writes the curves into a run, and ends it when it is told to stop."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._began = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        _end_if(self._run.stopping)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        run = self._run
        run.pace.steps.append(time.perf_counter() - self._began)
        run.step += 1
        if run.step == 1:
            run.enter("Training")
        self._note("training", logs, "")
        _end_if(run.left)
        if run.stopping.is_set():
            run.enter("Stopping")
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        _end_if(self._run.left)

    def on_test_end(self, logs: Any = None) -> None:
        self._run.pace.validations.append(time.perf_counter() - self._began)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._note("validation", logs, "val_")

    def _note(self, part: str, logs: Any, prefix: str) -> None:
        found = logs or {}
        if f"{prefix}loss" in found:
            self._run.points.append(
                Point(
                    self._run.step,
                    float(found[f"{prefix}loss"]),
                    float(found[f"{prefix}accuracy"]),
                    part,
                )
            )


def _confusion(true: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), "int64")
    np.add.at(counts, (true, given), 1)
    return counts


def _mistakes(
    test: Split, logits: np.ndarray, labels: tuple[str, ...]
) -> list[tuple[str, str, str, float]]:
    """The wrong ones, the surest first."""
    shares = softmax(logits)
    given = shares.argmax(-1)
    wrong = [
        (
            test.texts[row],
            labels[test.labels[row]],
            labels[given[row]],
            float(shares[row, given[row]]),
        )
        for row in np.flatnonzero(given != test.labels)
    ]
    return sorted(wrong, key=lambda mistake: -mistake[3])


def _file_of(model: keras.Model, labels: tuple[str, ...]) -> bytes:
    """The adapter's file, with the labels that a file takes."""
    printable = all(map(str.isprintable, labels))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        keras_lora.save_adapter(
            model, file, labels=labels if printable else None
        )
        return file.read_bytes()
