"""Every method on the real base and two real tasks: accuracy, size, time.

Each run trains one method on one task and is written to the result file at
once; what is there already is not run again. Each method has the learning
rate that does best in validation (seed 0), which is looked for upwards and
downwards in the method's list, and then three seeds at that rate.

    python -m benchmarks.methods [--quick] [--minutes M] [--method NAME ...]
    python -m benchmarks.methods --table

`--quick` trains on fewer texts; its runs are kept apart from the others.
`--minutes` starts no run after so many.
"""

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.baselines import frozen_probe
from app.learn.batches import TrainBatches, predict_texts
from app.texts.base import Tokenizer, load_base
from app.texts.data import Split, Splits
from app.texts.tasks import get_task
from benchmarks.methods_list import FULL, METHODS, QUICK, Plan
from benchmarks.methods_table import tables
from benchmarks.train_step import backend_version, machine

RESULTS = Path(__file__).parent / "results" / "methods.json"
TASKS = ("tweet-sentiment", "product-sentiment")
SEEDS = (0, 1, 2)
BATCH = 32
WARM_UP = 0.1


class StepLosses(keras.callbacks.Callback):
    """The training loss of each step; Keras gives the epoch's mean so far."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.sum = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.sum = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        total = logs["loss"] * (batch + 1)
        self.losses.append(round(total - self.sum, 4))
        self.sum = total


class Bench:
    """What the runs of one process share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tokenizer = Tokenizer()
        self.splits = {name: self.read(name) for name in TASKS}
        self.base = load_base()

    def read(self, name: str) -> Splits:
        """A task's texts, as many as the plan trains on."""
        splits = get_task(name).load()
        few = slice(self.plan.texts)
        train = Split(splits.train.texts[few], splits.train.labels[few])
        return dataclasses.replace(splits, train=train)

    def probe(self, task: str) -> dict[str, Any]:
        """The frozen probe's accuracy on a task."""
        begun = time.perf_counter()
        found = frozen_probe(self.base, self.splits[task], self.tokenizer)
        return {
            "test": found.accuracy,
            "parameters": found.kernel.size + found.bias.size,
            "seconds": time.perf_counter() - begun,
        }

    def run(
        self, task: str, name: str, rate: float, seed: int
    ) -> dict[str, Any]:
        """Trains one method once; the base is as it was afterwards."""
        method, floats = METHODS[name], size_in_bytes(self.base)
        base = self.base if method.keeps_base else load_base()
        if method.mode is not None:
            base.quantize(method.mode)
        sizes = [floats, size_in_bytes(base)]
        result = self.train(base, task, name, rate, seed)
        if method.keeps_base:
            keras_lora.eject(base)
        return {**result, "base bytes": sizes}

    def train(
        self, base: Any, task: str, name: str, rate: float, seed: int
    ) -> dict[str, Any]:
        """Trains a base and a head on it, and measures them."""
        method, splits = METHODS[name], self.splits[task]
        keras.utils.set_random_seed(seed)
        labels = splits.train.labels
        train = TrainBatches(
            splits.train.texts, self.tokenizer, labels, BATCH, seed
        )
        begun = time.perf_counter()
        method.attach(base, [train[n][0] for n in range(4)])
        attached = time.perf_counter() - begun
        head = keras.layers.Dense(2, dtype="float32", name="head")
        model = keras.Model(base.input, head(base(base.input)))
        steps = self.plan.epochs * len(train)
        warm_up = int(steps * WARM_UP)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
        model.compile(
            method.optimizer(schedule),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        record = StepLosses()
        begun = time.perf_counter()
        model.fit(train, epochs=self.plan.epochs, callbacks=[record], verbose=0)
        seconds = time.perf_counter() - begun
        return {
            "validation": self.accuracy(model, splits.validation),
            "test": self.accuracy(model, splits.test),
            "parameters": count(model.trainable_variables),
            "seconds": seconds,
            "attach seconds": attached,
            "file bytes": file_bytes(model, name),
            "losses": record.losses,
        }

    def accuracy(self, model: Any, part: Split) -> float:
        """The share of texts that a model is right about."""
        logits = predict_texts(model, part.texts, self.tokenizer)
        return float(np.mean(logits.argmax(-1) == part.labels))


def count(variables: Any) -> int:
    """How many values some variables hold."""
    return sum(int(np.prod(variable.shape)) for variable in variables)


def size_in_bytes(model: Any) -> int:
    """What a model's weights take."""
    return sum(v.value.numpy().nbytes for v in model.weights)


def file_bytes(model: Any, name: str) -> int:
    """What has to be kept of a trained model: a file, or all its weights."""
    if name == "full fine-tuning":
        return size_in_bytes(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.safetensors"
        keras_lora.save_adapter(model, path)
        return path.stat().st_size


def tried_rates(
    runs: dict[str, Any], plan: Plan, task: str, name: str
) -> dict[float, float]:
    """The accuracy in validation at each rate that was tried (seed 0)."""
    found = {
        rate: runs.get(key(plan, task, name, rate, SEEDS[0]))
        for rate in METHODS[name].rates
    }
    return {rate: run["validation"] for rate, run in found.items() if run}


def next_rate(
    runs: dict[str, Any], plan: Plan, task: str, name: str
) -> float | None:
    """A rate to try: two in the middle, then each beside the best so far."""
    rates, tried = METHODS[name].rates, tried_rates(runs, plan, task, name)
    wanted = rates[1:3]
    if all(rate in tried for rate in wanted):
        best = rates.index(max(tried, key=tried.__getitem__))
        wanted = rates[max(0, best - 1) : best + 2]
    return next((rate for rate in wanted if rate not in tried), None)


def key(plan: Plan, task: str, name: str, rate: float, seed: int) -> str:
    """What a run is called in the result file."""
    return f"{plan.name}/{task}/{name}/{rate:g}/{seed}"


def next_run(
    runs: dict[str, Any], plan: Plan, names: list[str]
) -> tuple[str, str, float, int] | None:
    """The first run that is missing: rates first, then seeds, task by task."""
    for task in TASKS:
        for name in names:
            rate = next_rate(runs, plan, task, name)
            if rate is not None:
                return task, name, rate, SEEDS[0]
    for seed in SEEDS[1:]:
        for task in TASKS:
            for name in names:
                tried = tried_rates(runs, plan, task, name)
                rate = max(tried, key=tried.__getitem__)
                if key(plan, task, name, rate, seed) not in runs:
                    return task, name, rate, seed
    return None


def described() -> dict[str, Any]:
    """What the runs depend on besides the code."""
    backend = keras.backend.backend()
    return {
        "versions": {
            "keras": keras.__version__,
            backend: backend_version(),
            "python": platform.python_version(),
        },
        "backend": backend,
        "machine": machine(),
        "plans": {p.name: dataclasses.asdict(p) for p in (QUICK, FULL)},
    }


def write(path: Path, runs: dict[str, Any]) -> None:
    """Replaces the result file."""
    part = path.with_suffix(".part")
    result = {**described(), "runs": runs}
    part.write_text(json.dumps(result, indent=0, sort_keys=True) + "\n")
    part.replace(path)


def run_missing(options: argparse.Namespace, runs: dict[str, Any]) -> None:
    """Does what is not in `runs` yet, and writes after each run."""
    begun, plan = time.perf_counter(), QUICK if options.quick else FULL
    bench = Bench(plan)
    for task in TASKS:
        name = f"{plan.name}/{task}/frozen probe"
        if name not in runs:
            runs[name] = bench.probe(task)
            write(options.json, runs)
    while wanted := next_run(runs, plan, options.method):
        if time.perf_counter() - begun > 60 * options.minutes:
            break
        name = key(plan, *wanted)
        runs[name] = bench.run(*wanted)
        write(options.json, runs)
        test, seconds = runs[name]["test"], runs[name]["seconds"]
        print(f"{name}: test {test:.3f}, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    there = options.json.exists()
    runs = json.loads(options.json.read_text())["runs"] if there else {}
    if not options.table:
        run_missing(options, runs)
    print(tables(runs))


if __name__ == "__main__":
    main()
