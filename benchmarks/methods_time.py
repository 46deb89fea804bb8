"""What a training step of each method takes, all of them in turn."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.learn.batches import TrainBatches
from benchmarks.methods_list import METHODS
from benchmarks.methods_runs import WHOLE
from benchmarks.train_step import machine, spread

Batch = tuple[Any, np.ndarray]


def middle_batch(train: TrainBatches) -> Batch:
    """A task's batch of the median length."""
    lengths = [train[n][0]["token_ids"].shape[1] for n in range(len(train))]
    inputs, labels = train[int(np.argsort(lengths)[len(lengths) // 2])]
    return inputs, labels


def seconds_of(model: Any, batches: Sequence[Batch]) -> float:
    """What a step on each of some batches takes."""
    begun = time.perf_counter()
    for inputs, labels in batches:
        float(model.train_on_batch(inputs, labels))
    return time.perf_counter() - begun


def step_times(bench: Any, rounds: int) -> dict[str, Any]:
    """Trains all methods, one step on each task's batch in turn.

    Args:
        bench: A `benchmarks.methods.Bench`.
        rounds: How often.

    Returns:
        By method, the milliseconds of a step and their ratio to those of full
        fine-tuning in the same round: quartiles and median. And what it ran
        on.
    """
    batches = [middle_batch(train) for train in bench.batches()]
    models = {}
    for name, method in METHODS.items():
        base = bench.base_for(method, own=True)
        method.attach(base, [inputs for inputs, _ in batches])
        models[name] = bench.headed(base, method, method.rates[1], 10_000)
        for _ in range(2):
            seconds_of(models[name], batches)
        print(f"{name} is ready", flush=True)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            taken[name].append(seconds_of(model, batches) / len(batches))
    return {
        "machine": machine(),
        "rounds": rounds,
        "shapes": [list(x["token_ids"].shape) for x, _ in batches],
        "methods": {
            name: {
                "milliseconds": spread(1e3 * np.array(seconds)),
                "over_full": spread(np.array(seconds) / np.array(taken[WHOLE])),
            }
            for name, seconds in taken.items()
        },
    }
