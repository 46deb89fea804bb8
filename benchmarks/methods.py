"""Every method on the real base and two real tasks: accuracy, size, time.

Each run trains one method on one task and is written to the result file at
once; what is there already is not run again. Each method has the learning
rate that does best in validation (seed 0), and then three seeds at that rate.

    python -m benchmarks.methods [--quick] [--minutes M] [--method NAME ...]
    python -m benchmarks.methods --table [--quick]

`--quick` trains on fewer texts, and tries fewer rates; its runs are kept apart
from the others. `--minutes` starts no run after so many.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_lora  # noqa: E402
from app.base import Tokenizer, load_base  # noqa: E402
from app.baselines import frozen_probe  # noqa: E402
from app.batches import TrainBatches, predict_texts  # noqa: E402
from app.data import Split, Splits  # noqa: E402
from app.tasks import get_task  # noqa: E402
from benchmarks.methods_table import tables  # noqa: E402
from keras_lora import (  # noqa: E402
    EVA,
    AdapterConfig,
    DoRAConfig,
    LoRAConfig,
    lora_plus,
)

RESULTS = Path(__file__).parent / "results" / "methods.json"
TASKS = ("tweet-sentiment", "product-sentiment")
SEEDS = (0, 1, 2)
BATCH = 32
WARM_UP = 0.1
LORA_RATES = (5e-4, 1e-3, 2e-3, 4e-3)


@dataclass(frozen=True)
class Plan:
    """How much each run trains.

    Attributes:
        texts: Training texts at most; None for all.
        epochs: Passes over them.
        rates: How many of a method's rates are tried, from its middle.
    """

    name: str
    texts: int | None
    epochs: int
    rates: int


QUICK = Plan("quick", 512, 2, 2)
FULL = Plan("full", None, 3, 4)


@dataclass(frozen=True)
class Method:
    """A way to train the base for a task.

    Attributes:
        attach: Changes a base so that the right weights train; given the
            base and a few batches of training inputs.
        rates: Learning rates to choose from.
        optimizer: Makes the optimizer of a schedule.
        mode: How the base is quantized first, if it is.
        keeps_base: Whether the base can be used again.
    """

    attach: Callable[[Any, list[Any]], Any]
    rates: tuple[float, ...] = LORA_RATES
    optimizer: Callable[[Any], Any] = keras.optimizers.Adam
    mode: str | None = None
    keeps_base: bool = True


def injecting(config: Any, **options: Any) -> Callable[[Any, Any], Any]:
    """Attaches what a config says."""
    return lambda base, batches: keras_lora.inject(base, config, **options)


METHODS: dict[str, Method] = {
    "full fine-tuning": Method(
        lambda base, batches: base,
        (2e-5, 5e-5, 1e-4, 2e-4),
        keeps_base=False,
    ),
    "lora": Method(injecting(LoRAConfig())),
    "rslora": Method(injecting(LoRAConfig(scale="rslora"))),
    "svd": Method(injecting(LoRAConfig(init="svd"))),
    "svd-minor": Method(injecting(LoRAConfig(init="svd-minor"))),
    "eva": Method(
        lambda base, batches: keras_lora.inject(
            base, LoRAConfig(init=EVA(batches, rho=2.0))
        )
    ),
    "dora": Method(injecting(DoRAConfig())),
    "lora+": Method(
        injecting(LoRAConfig()),
        (1e-4, 2.5e-4, 5e-4, 1e-3),
        lambda rate: lora_plus(keras.optimizers.Adam(rate), 16),
    ),
    "pfeiffer": Method(injecting(AdapterConfig())),
    "houlsby": Method(injecting(AdapterConfig(placement="houlsby"))),
    "parallel": Method(
        injecting(AdapterConfig(placement="parallel", scale=4.0))
    ),
    "lora, last 2 blocks": Method(
        injecting(LoRAConfig(layers=slice(-2, None)))
    ),
    "lora on int8": Method(
        injecting(LoRAConfig()), mode="int8", keeps_base=False
    ),
    "lora on int4": Method(
        injecting(LoRAConfig()), mode="int4", keeps_base=False
    ),
}


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
    """What the file of a trained model takes."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "full fine-tuning":
            path = Path(folder) / "model.weights.h5"
            model.save_weights(path)
        else:
            path = Path(folder) / "task.safetensors"
            keras_lora.save_adapter(model, path)
        return path.stat().st_size


def rates_of(name: str, plan: Plan) -> tuple[float, ...]:
    """The rates to try: the middle ones where the plan has fewer."""
    rates = METHODS[name].rates
    start = (len(rates) - plan.rates + 1) // 2
    return rates[start : start + plan.rates]


def best_rate(
    runs: dict[str, Any], plan: Plan, task: str, name: str
) -> float | None:
    """The rate that does best in validation, once all were tried."""
    tried = {
        rate: runs.get(key(plan, task, name, rate, SEEDS[0]))
        for rate in rates_of(name, plan)
    }
    if not all(tried.values()):
        return None
    return max(tried, key=lambda rate: tried[rate]["validation"])


def key(plan: Plan, task: str, name: str, rate: float, seed: int) -> str:
    """What a run is called in the result file."""
    return f"{plan.name}/{task}/{name}/{rate:g}/{seed}"


def next_run(
    runs: dict[str, Any], plan: Plan, names: list[str]
) -> tuple[str, str, float, int] | None:
    """The first run that is missing: rates first, then seeds, task by task."""
    for seed in SEEDS:
        for task in TASKS:
            for name in names:
                rates = rates_of(name, plan)
                if seed != SEEDS[0]:
                    chosen = best_rate(runs, plan, task, name)
                    rates = () if chosen is None else (chosen,)
                for rate in rates:
                    if key(plan, task, name, rate, seed) not in runs:
                        return task, name, rate, seed
    return None


def write(results: dict[str, Any]) -> None:
    """Replaces the result file."""
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n")
    part.replace(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    begun = time.perf_counter()
    plan = QUICK if options.quick else FULL
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.table:
        print(tables(runs, plan.name, TASKS, list(METHODS)))
        return
    bench = Bench(plan)
    for task in TASKS:
        if f"{plan.name}/{task}/frozen probe" not in runs:
            runs[f"{plan.name}/{task}/frozen probe"] = bench.probe(task)
            write(runs)
    while wanted := next_run(runs, plan, options.method):
        if time.perf_counter() - begun > 60 * options.minutes:
            break
        result = bench.run(*wanted)
        runs[key(plan, *wanted)] = result
        write(runs)
        print(
            f"{key(plan, *wanted)}: test {result['test']:.3f}, "
            f"{result['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
