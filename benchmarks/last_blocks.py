"""LoRA on the last blocks, on features computed once, against all blocks.

    python -m benchmarks.last_blocks [--texts N] [--json FILE]

The sides take turns, an epoch each, so that a noisy machine slows them alike.
"""

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.batches import Batches, TrainBatches, predict_texts
from app.texts.base import Tokenizer, load_base
from app.texts.data import Split, Splits
from app.texts.tasks import get_task
from benchmarks.last_blocks_table import last_blocks
from benchmarks.train_step import backend_version, machine

TASKS = ("tweet-sentiment", "movie-sentiment")
SIDES = {"all blocks": None, "the last 3": 3, "the last 2": 2}
WARM_UP = 0.1


class Side:
    """One way to train, with a base of its own.

    Args:
        blocks: How many of the last blocks have adapters; None for all, which
            train through the whole model.
    """

    def __init__(
        self,
        blocks: int | None,
        splits: Splits,
        tokenizer: Tokenizer,
        options: argparse.Namespace,
        seed: int,
    ) -> None:
        keras.utils.set_random_seed(seed)
        base = load_base()
        layers = None if blocks is None else slice(-blocks, None)
        keras_lora.inject(base, keras_lora.LoRAConfig(layers=layers))
        head = keras.layers.Dense(2, dtype="float32", name="head")
        self.model = keras.Model(base.input, head(base(base.input)))
        self.trained, self.once = self.model, 0.0
        texts, labels = splits.train.texts, splits.train.labels
        if blocks is None:
            self.data: Any = TrainBatches(
                texts, tokenizer, labels, options.batch, seed
            )
        else:
            self.data = self.features(
                Batches(texts, tokenizer, labels, options.batch), seed
            )
        self.compile(options)
        self.seconds: list[float] = []

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

    def compile(self, options: argparse.Namespace) -> None:
        """Compiles what trains, with a schedule over all epochs."""
        steps = options.epochs * len(self.data)
        warm_up = int(steps * WARM_UP)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            steps - warm_up,
            warmup_target=options.rate,
            warmup_steps=warm_up,
        )
        self.trained.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )

    def epoch(self) -> None:
        """Trains for an epoch."""
        begun = time.perf_counter()
        self.trained.fit(self.data, epochs=1, verbose=0)
        self.seconds.append(time.perf_counter() - begun)

    def result(self, part: Split, tokenizer: Tokenizer) -> dict[str, Any]:
        """What came of it."""
        logits = predict_texts(self.model, part.texts, tokenizer)
        found = {
            "epochs": self.seconds,
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
        name: Side(blocks, splits, tokenizer, options, seed)
        for name, blocks in SIDES.items()
    }
    for _ in range(options.epochs):
        for side in sides.values():
            side.epoch()
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
        base = [s for run in runs for s in run["all blocks"]["epochs"][1:]]
        row: dict[str, Any] = {
            "epoch_seconds": quartiles(later),
            "accuracy": [run["accuracy"] for run in own],
            "trainable": own[0]["trainable"],
        }
        if "once" in own[0]:
            ratios = [a / b for a, b in zip(later, base, strict=True)]
            row["over_all"] = quartiles(ratios)
            row["precompute_seconds"] = quartiles(run["once"] for run in own)
            row["features_mb"] = own[0]["bytes"] / 1e6
        found[name] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, help="training texts at most")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    tokenizer = Tokenizer()
    result: dict[str, Any] = {
        "versions": {
            "keras": keras.__version__,
            keras.backend.backend(): backend_version(),
            "python": platform.python_version(),
        },
        "backend": keras.backend.backend(),
        "machine": machine(),
        "settings": {
            "texts": options.texts or "all",
            "epochs": options.epochs,
            "seeds": options.seeds,
            "batch": options.batch,
            "rank": 8,
            "rate": options.rate,
        },
        "tasks": {},
    }
    for task in TASKS:
        runs = []
        for seed in range(options.seeds):
            runs.append(run(task, seed, tokenizer, options))
            result["tasks"][task] = gathered(runs)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(last_blocks(result))


if __name__ == "__main__":
    main()
