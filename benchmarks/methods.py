"""Every method on the real base and two real tasks: accuracy, size, time.

Each run trains one method on one task and is written to the result file at
once; what is there already is not run again. A method is run with the first
seed at several learning rates, then with two more seeds at the rate that does
best in validation. The full plan tries three rates: the best of the quick plan
and those beside it. The quick plan goes up and down in the method's list.

    python -m benchmarks.methods [--quick] [--minutes M] [--method NAME ...]
        [--task NAME ...]
    python -m benchmarks.methods --time [--rounds N]
    python -m benchmarks.methods --table

`--quick` trains on fewer texts; its runs are kept apart from the others.
`--minutes` starts no run after so many. Runs come seed by seed, task by task,
and the most wanted methods first. `--time` measures what a training step of
each method takes: runs of hours meet other work, so that their seconds do not
compare.
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
from app.learn.baselines import frozen_probe
from app.learn.batches import TrainBatches, predict_texts
from app.learn.training import make_variables
from app.texts.base import Tokenizer, load_base
from app.texts.data import Split, Splits
from app.texts.tasks import get_task
from benchmarks.methods_list import FULL, METHODS, QUICK, Method, Plan
from benchmarks.methods_plan import key, next_run
from benchmarks.methods_runs import TASKS
from benchmarks.methods_table import methods
from benchmarks.methods_time import step_times
from benchmarks.train_step import machine, versions

RESULTS = Path(__file__).parent / "results" / "methods.json"
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
        base = self.base_for(method)
        sizes = [floats, size_in_bytes(base)]
        result = self.train(base, task, name, rate, seed)
        if method.keeps_base:
            keras_lora.eject(base)
        return {**result, "base bytes": sizes}

    def base_for(self, method: Method, own: bool = False) -> Any:
        """A base, quantized where the method says so.

        It is the one that all share, where the method leaves it as it was,
        unless an `own` one is asked for.
        """
        base = load_base() if own or not method.keeps_base else self.base
        if method.mode is not None:
            base.quantize(method.mode)
        return base

    def batches(self, seed: int = 0) -> list[TrainBatches]:
        """The training texts of each task."""
        return [self.training(task, seed) for task in self.splits]

    def training(self, task: str, seed: int) -> TrainBatches:
        """A task's training texts in batches."""
        train = self.splits[task].train
        return TrainBatches(
            train.texts, self.tokenizer, train.labels, BATCH, seed
        )

    def headed(self, base: Any, method: Method, rate: float, steps: int) -> Any:
        """A model with a head on a base, ready for so many steps."""
        head = keras.layers.Dense(2, dtype="float32", name="head")
        model = keras.Model(base.input, head(base(base.input)))
        warm_up = int(steps * WARM_UP)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
        )
        model.compile(
            method.optimizer(schedule),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        make_variables(model, np.zeros(1, "int32"), keras.ops.zeros((1, 2)))
        return model

    def train(
        self, base: Any, task: str, name: str, rate: float, seed: int
    ) -> dict[str, Any]:
        """Trains a base and a head on it, and measures them."""
        method, splits = METHODS[name], self.splits[task]
        keras.utils.set_random_seed(seed)
        train = self.training(task, seed)
        begun = time.perf_counter()
        method.attach(base, [train[n][0] for n in range(4)])
        attached = time.perf_counter() - begun
        steps = self.plan.epochs * len(train)
        model = self.headed(base, method, rate, steps)
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


def described(before: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What the runs depend on besides the code.

    Args:
        before: What the file held so far.
        plan: The plan of the newest run; those of the other may be of another
            machine.
    """
    backend = keras.backend.backend()
    known = before.get("machines") or {
        run.split("/")[0]: before["machine"] for run in before.get("runs", {})
    }
    return {
        "versions": versions(),
        "backend": backend,
        "machines": {**known, plan.name: machine()},
        "times": before.get("times", {}),
        "plans": {p.name: dataclasses.asdict(p) for p in (QUICK, FULL)},
    }


def read(path: Path) -> dict[str, Any]:
    """What a result file holds; it may not be there yet."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write(path: Path, plan: Plan, runs: dict[str, Any]) -> None:
    """Replaces the result file; runs that are there alone are taken over."""
    before = read(path)
    for name, run in before.get("runs", {}).items():
        runs.setdefault(name, run)
    put(path, {**described(before, plan), "runs": runs})


def put(path: Path, result: dict[str, Any]) -> None:
    """Replaces a result file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=0, sort_keys=True) + "\n")
    part.replace(path)


def measure_times(options: argparse.Namespace) -> None:
    """Measures the steps of all methods, and puts them beside the runs."""
    times = step_times(Bench(FULL), options.rounds)
    put(options.json, {**read(options.json), "times": times})


def run_missing(options: argparse.Namespace, runs: dict[str, Any]) -> None:
    """Does what is not in `runs` yet, and writes after each run."""
    begun, plan = time.perf_counter(), QUICK if options.quick else FULL
    bench = Bench(plan)
    for task in options.task:
        name = f"{plan.name}/{task}/frozen probe"
        if name not in runs:
            runs[name] = bench.probe(task)
            write(options.json, plan, runs)
    while wanted := next_run(runs, plan, options.method, options.task):
        if time.perf_counter() - begun > 60 * options.minutes:
            break
        name = key(plan, *wanted)
        runs[name] = bench.run(*wanted)
        write(options.json, plan, runs)
        test, seconds = runs[name]["test"], runs[name]["seconds"]
        print(f"{name}: test {test:.3f}, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument(
        "--method", nargs="*", default=list(METHODS), choices=METHODS
    )
    parser.add_argument("--task", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.time:
        measure_times(options)
    elif not options.table:
        run_missing(options, read(options.json).get("runs", {}))
    print(methods(read(options.json)))


if __name__ == "__main__":
    main()
