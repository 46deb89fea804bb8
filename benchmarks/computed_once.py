"""What trains on features that are computed once, against LoRA on all blocks.

    python -m benchmarks.computed_once [--texts N] [--json FILE]

LoRA on the last blocks, and a ladder beside the base. The sides take turns, an
epoch each, so that a noisy machine slows them alike. All of it takes hours: a
run of a task and a seed that FILE holds already is not run again.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.batches import Batches, TrainBatches, predict_texts
from app.learn.training import compile_for
from app.texts.base import Tokenizer, load_base
from app.texts.data import Split, Splits
from app.texts.tasks import get_task
from benchmarks.computed_once_table import computed_once
from benchmarks.train_step import machine, versions

TASKS = ("tweet-sentiment", "product-sentiment", "movie-sentiment")
ALL = "LoRA, all blocks"
SIDES = {
    ALL: keras_lora.LoRAConfig(),
    "LoRA, the last 3": keras_lora.LoRAConfig(layers=slice(-3, None)),
    "LoRA, the last 2": keras_lora.LoRAConfig(layers=slice(-2, None)),
    "a ladder": keras_lora.SideConfig(),
}


class Side:
    """One way to train, with a base of its own.

    Args:
        name: Of `SIDES`.
        splits: The texts.
        tokenizer: Texts to token ids.
        options: Of the command.
        seed: Of the weights' start and the order of texts.
    """

    def __init__(
        self,
        name: str,
        splits: Splits,
        tokenizer: Tokenizer,
        options: argparse.Namespace,
        seed: int,
    ) -> None:
        keras.utils.set_random_seed(seed)
        base = load_base()
        begun = time.perf_counter()
        keras_lora.inject(base, SIDES[name])
        head = keras.layers.Dense(2, dtype="float32", name="head")
        self.model = keras.Model(base.input, head(base(base.input)))
        self.trained, self.once = self.model, 0.0
        texts, labels = splits.train.texts, splits.train.labels
        if name == ALL:
            self.data: Any = TrainBatches(
                texts, tokenizer, labels, options.batch, seed
            )
        else:
            self.data = self.features(
                Batches(texts, tokenizer, labels, options.batch), seed
            )
        compile_for(self.trained, options.rate, options.epochs * len(self.data))
        self.seconds: list[float] = []
        self.job = time.perf_counter() - begun

    def features(self, batches: Batches, seed: int) -> Any:
        """Cuts the model and runs its first part once."""
        begun = time.perf_counter()
        frozen, self.trained = keras_lora.split(self.model)
        found = keras_lora.precompute(
            frozen,
            batches,
            dtype="float16",
            mask="padding_mask",
            batch_size=batches.batch_size,
            seed=seed,
            verbose=0,
        )
        self.once = time.perf_counter() - begun
        return found

    def epoch(self) -> None:
        """Trains for an epoch."""
        begun = time.perf_counter()
        self.trained.fit(self.data, epochs=1, verbose=0)
        self.seconds.append(time.perf_counter() - begun)
        self.job += self.seconds[-1]

    def save(self) -> None:
        """Writes the adapter's file."""
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            keras_lora.save_adapter(self.model, Path(folder) / "a.safetensors")
            self.job += time.perf_counter() - begun

    def result(self, part: Split, tokenizer: Tokenizer) -> dict[str, Any]:
        """What came of it."""
        logits = predict_texts(self.model, part.texts, tokenizer)
        found = {
            "epochs": self.seconds,
            "job": self.job,
            "accuracy": float(np.mean(logits.argmax(-1) == part.labels)),
            "trainable": keras_lora.summary(self.model).trainable,
        }
        if self.once:
            found |= {"once": self.once, "bytes": self.data.nbytes}
        return found


def run(
    task: str, seed: int, tokenizer: Tokenizer, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Trains all sides with one seed."""
    splits = get_task(task).load()
    few = slice(options.texts)
    train = Split(splits.train.texts[few], splits.train.labels[few])
    splits = dataclasses.replace(splits, train=train)
    sides = {
        name: Side(name, splits, tokenizer, options, seed) for name in SIDES
    }
    for _ in range(options.epochs):
        for side in sides.values():
            side.epoch()
    for side in sides.values():
        side.save()
    test = Split(splits.test.texts[few], splits.test.labels[few])
    found = {n: side.result(test, tokenizer) for n, side in sides.items()}
    for name, side in found.items():
        print(task, seed, name, json.dumps(side), flush=True)
    return found


def quartiles(values: Any) -> list[float]:
    """The quartiles of some values."""
    return [float(v) for v in np.percentile(list(values), (25, 50, 75))]


def gathered(runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What the seeds of a task come to, by side."""
    found = {}
    for name in SIDES:
        own = [run[name] for run in runs]
        later = [seconds for run in own for seconds in run["epochs"][1:]]
        base = [s for run in runs for s in run[ALL]["epochs"][1:]]
        row: dict[str, Any] = {
            "epoch_seconds": quartiles(later),
            "job_seconds": quartiles(run["job"] for run in own),
            "accuracy": [run["accuracy"] for run in own],
            "trainable": own[0]["trainable"],
        }
        if "once" in own[0]:
            ratios = [a / b for a, b in zip(later, base, strict=True)]
            row["over_all"] = quartiles(ratios)
            row["job_over_all"] = quartiles(
                run[name]["job"] / run[ALL]["job"] for run in runs
            )
            row["precompute_seconds"] = quartiles(run["once"] for run in own)
            row["features_mb"] = own[0]["bytes"] / 1e6
        found[name] = row
    return found


def kept(options: argparse.Namespace, fresh: dict[str, Any]) -> dict[str, Any]:
    """The runs that a file of the same settings and versions holds."""
    if not options.json or not options.json.exists():
        return {}
    found = json.loads(options.json.read_text())
    if any(found[part] != fresh[part] for part in fresh):
        raise SystemExit(f"{options.json} is of other settings or versions")
    return found["runs"]


def main() -> None:
    """Runs the benchmark as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, help="training texts at most")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    tokenizer = Tokenizer()
    about: dict[str, Any] = {
        "versions": versions(),
        "backend": keras.backend.backend(),
        "machine": machine(),
        "settings": {
            "texts": options.texts or "all",
            "epochs": options.epochs,
            "batch": options.batch,
            "rank": 8,
            "rate": options.rate,
        },
    }
    runs = kept(options, about)
    for seed in range(options.seeds):
        for task in options.tasks:
            own = runs.setdefault(task, {})
            if str(seed) in own:
                continue
            own[str(seed)] = run(task, seed, tokenizer, options)
            if options.json:
                text = json.dumps(result_of(about, runs), indent=1)
                options.json.write_text(text + "\n")
    print(computed_once(result_of(about, runs)))


def result_of(about: dict[str, Any], runs: dict[str, Any]) -> dict[str, Any]:
    """What the file holds: every run, and what they come to."""
    tasks = {t: gathered(list(own.values())) for t, own in runs.items() if own}
    return {**about, "tasks": tasks, "runs": runs}


if __name__ == "__main__":
    main()
