"""How far the defaults are from the best of a sweep, on four tasks.

    python -m benchmarks.hyper_parameters [--minutes M] [--json FILE]
    python -m benchmarks.hyper_parameters --table

LoRA on the real base. One setting at a time is changed, all others stay at the
demo's defaults. The setting that does best on the validation texts is then
trained with more seeds, and so are the defaults; both are judged on held-out
texts. Settings that did worse in validation never see these. Every run trains
on the same few texts of its task.

Each run is written to FILE at once, and what is there is not run again, so that
the sweep goes on where it was stopped: rates first, then ranks, then the rest,
each for all tasks. `--minutes` starts no run after so many. Processes may share
FILE where each has tasks of its own (`--tasks`).
"""

import argparse
import dataclasses
import fcntl
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.batches import TrainBatches, predict_texts
from app.learn.training import Settings, adapted_model, compile_for
from app.texts.base import Tokenizer, load_base
from app.texts.data import Split, Splits
from app.texts.tasks import get_task
from benchmarks.hyper_parameters_table import (
    DEFAULTS,
    best_variant,
    hyper_parameters,
)
from benchmarks.train_step import machine, versions

RESULTS = Path(__file__).parent / "results" / "hyper_parameters.json"
TASKS = (
    "tweet-sentiment",
    "product-sentiment",
    "movie-sentiment",
    "text-source",
)
START = Settings(epochs=3)
SWEEP: dict[str, tuple[float, ...]] = {
    "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
    "rank": (2, 8, 32),
    "alpha": (8, 16, 32),
    "epochs": (1, 3, 5),
    "batch_size": (16, 32, 64),
}
VARIANTS: dict[str, dict[str, Any]] = {DEFAULTS: {}} | {
    f"{field.replace('_', ' ')} {value:g}": {field: value}
    for field, values in SWEEP.items()
    for value in values
    if value != getattr(START, field)
}
"""What each run is called, and what it changes; most telling ones first."""


def few_texts(splits: Splits, train: int, validation: int, test: int) -> Splits:
    """A part of a task's texts; held-out parts grow by texts not trained on.

    Args:
        splits: All of them.
        train: How many to train on.
        validation: How many to choose a setting by.
        test: How many to report on.
    """
    rest = joined(splits.train, slice(train, None))
    back = joined(rest, slice(None, None, -1))
    wanted = max(0, validation - len(splits.validation))
    spare = len(rest) - wanted
    return Splits(
        joined(splits.train, slice(train)),
        joined(splits.validation, slice(validation), rest, slice(wanted)),
        joined(
            splits.test,
            slice(test),
            back,
            slice(min(spare, max(0, test - len(splits.test)))),
        ),
    )


def joined(*parts: Any) -> Split:
    """Texts of some parts, each followed by which of them to take."""
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    return Split(
        [text for part, few in pairs for text in part.texts[few]],
        np.concatenate([part.labels[few] for part, few in pairs]),
    )


class Bench:
    """What the runs of one process share."""

    def __init__(self, tasks: list[str], texts: list[int]) -> None:
        self.tokenizer = Tokenizer()
        self.base = load_base()
        self.splits = {
            name: few_texts(get_task(name).load(), *texts) for name in tasks
        }

    def run(
        self, task: str, variant: str, seed: int, to_beat: float
    ) -> dict[str, Any]:
        """Trains one adapter and measures it; the base stays as it was.

        Args:
            task: Its texts are those that this object has read.
            variant: What is changed, a key of `VARIANTS`.
            seed: Of the adapter's start and the order of the texts.
            to_beat: The accuracy in validation from which on the held-out
                texts are looked at.
        """
        splits, wanted = self.splits[task], get_task(task)
        settings = dataclasses.replace(START, seed=seed, **VARIANTS[variant])
        keras.utils.set_random_seed(seed)
        train = TrainBatches(
            splits.train.texts,
            self.tokenizer,
            splits.train.labels,
            settings.batch_size,
            seed,
        )
        model = adapted_model(self.base, len(wanted.labels), settings)
        epochs = settings.epochs or wanted.epochs
        compile_for(model, settings.learning_rate, epochs * len(train))
        begun = time.perf_counter()
        model.fit(train, epochs=epochs, verbose=0)
        seconds = time.perf_counter() - begun
        missed = self.wrong(model, splits.validation)
        found = {
            "validation": 1 - len(missed) / len(splits.validation),
            "seconds": round(seconds, 1),
        }
        if found["validation"] >= to_beat:
            wrong = self.wrong(model, splits.test)
            found["held out"] = 1 - len(wrong) / len(splits.test)
            found |= {"texts": len(splits.test), "wrong": wrong}
        keras_lora.eject(self.base)
        return found

    def wrong(self, model: Any, part: Split) -> list[int]:
        """The numbers of the texts that a model is wrong about."""
        logits = predict_texts(model, part.texts, self.tokenizer)
        return np.flatnonzero(logits.argmax(-1) != part.labels).tolist()


def to_beat(runs: dict[str, Any], task: str, variant: str, seed: int) -> float:
    """The best in validation so far, where a run chooses among settings."""
    if variant == DEFAULTS or seed:
        return 0.0
    return max(
        run["validation"]
        for name, run in runs.items()
        if name.startswith(f"{task}/") and name.endswith("/0")
    )


def next_run(
    runs: dict[str, Any], tasks: list[str], seeds: int
) -> tuple[str, str, int] | None:
    """The first run that is missing: all settings, then more seeds of two."""
    for field in ("", *SWEEP):
        for task in tasks:
            for variant, change in VARIANTS.items():
                own = field in change or not (field or change)
                if own and f"{task}/{variant}/0" not in runs:
                    return task, variant, 0
    for seed in range(1, seeds):
        for task in tasks:
            for variant in (DEFAULTS, best_variant(runs, task)):
                if f"{task}/{variant}/{seed}" not in runs:
                    return task, variant, seed
    return None


def described(options: argparse.Namespace) -> dict[str, Any]:
    """What the runs depend on besides the code."""
    backend = keras.backend.backend()
    train, validation, held_out = options.texts
    return {
        "versions": versions(),
        "backend": backend,
        "machine": machine(),
        "settings": {
            "training texts": train,
            "validation texts": validation,
            "held-out texts, at most": held_out,
        },
        "start": {name: getattr(START, name) for name in SWEEP},
    }


def read(path: Path) -> dict[str, Any]:
    """What a result file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def add(path: Path, about: dict[str, Any], name: str, run: Any) -> None:
    """Adds a run to a result file that other processes add to as well."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = {**read(path).get("runs", {}), name: run}
        lines = ",\n".join(
            f"{json.dumps(key)}: {json.dumps(runs[key])}"
            for key in sorted(runs)
        )
        head = json.dumps(about, indent=1).removesuffix("\n}")
        part = path.with_suffix(".part")
        part.write_text(f'{head},\n "runs": {{\n{lines}\n}}\n}}\n')
        part.replace(path)


def run_missing(options: argparse.Namespace) -> None:
    """Does what is not in the file yet, and writes after each run."""
    begun, about = time.perf_counter(), described(options)
    found = read(options.json)
    if found and any(found[p] != about[p] for p in ("settings", "start")):
        raise SystemExit(f"{options.json} is of other settings")
    bench = Bench(options.tasks, options.texts)
    while wanted := next_run(
        runs := read(options.json).get("runs", {}), options.tasks, options.seeds
    ):
        if time.perf_counter() - begun > 60 * options.minutes:
            break
        name = "/".join(map(str, wanted))
        run = bench.run(*wanted, to_beat(runs, *wanted))
        add(options.json, about, name, run)
        print(
            f"{name}: validation {run['validation']:.3f}, held out "
            f"{run.get('held out', float('nan')):.3f}, {run['seconds']:.0f} s",
            flush=True,
        )


def main() -> None:
    """Runs the sweep as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--texts",
        type=int,
        nargs=3,
        default=[1000, 500, 1000],
        help="to train on, to choose by, and held out",
    )
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.table:
        run_missing(options)
    found = read(options.json)
    print(hyper_parameters(found) if found else "no runs yet")


if __name__ == "__main__":
    main()
