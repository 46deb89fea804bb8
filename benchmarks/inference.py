"""What a plain adapted model's predictions cost beside its base's.

Both sides predict the same batch with the same encoder (by default 6 layers,
width 384) in turn, after each has been warmed up: in a call of
`predict_on_batch`, whose batch has a known size, and in one of `predict`,
where TensorFlow leaves it open.

    python -m benchmarks.inference [--rounds 30] [--json FILE]
"""

import argparse
import json
import time
from typing import Any

import numpy as np

import keras_lora
from benchmarks.train_step import add_settings, batch, build, describe, spread

CALLS = ("predict_on_batch", "predict")


def prepare(adapted: bool, options: argparse.Namespace) -> Any:
    """An encoder with pooled features, with an adapter that is not zero."""
    base, _ = build(options)
    if adapted:
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=options.rank))
        rng = np.random.default_rng(0)
        for variable in base.trainable_variables:
            variable.assign(0.05 * rng.normal(size=variable.shape))
    return base


def call(name: str, model: Any, x: Any, options: argparse.Namespace) -> float:
    """Seconds that one call takes."""
    more = {"batch_size": options.batch, "verbose": 0}
    start = time.perf_counter()
    getattr(model, name)(x, **(more if name == "predict" else {}))
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times both sides in turn, with each kind of call."""
    x, _ = batch(options)
    sides = {
        "base": prepare(False, options),
        "adapted": prepare(True, options),
    }
    calls = {}
    for name in CALLS:
        for model in sides.values():
            for _ in range(3):
                call(name, model, x, options)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, model in sides.items():
                times[side].append(call(name, model, x, options))
        base, adapted = (np.array(times[side]) for side in sides)
        calls[name] = {
            "milliseconds": {
                s: spread(1e3 * np.array(times[s])) for s in sides
            },
            "ratio": spread(adapted / base),
        }
    return {**describe(options), "calls": calls}


def main() -> None:
    """Runs the benchmark as the command line says."""
    from benchmarks.doors_table import inference

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser, rounds=30)
    options = parser.parse_args()
    result = measure(options)
    print(inference(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
