"""What `inject` and `eject` take in a process that holds many fitted models.

Both change a small model's layers, and every compiled model that holds one of
them has to notice. Rounds of inject and eject are timed before any other model
is there and beside many that were fitted; in each round a pass over all objects
of the process, which would find such models too, is timed next to them.

    python -m benchmarks.rewriting [--models 48] [--rounds 20] [--json FILE]
"""

import argparse
import gc
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from benchmarks.train_step import machine


def small_model() -> Any:
    """Two layers."""
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(32, "relu"), layers.Dense(4)]
    )


def fitted(count: int) -> list[Any]:
    """So many models, each trained on a batch and asked once."""
    x, y = np.random.rand(32, 16), np.random.rand(32, 4)
    models = [small_model() for _ in range(count)]
    for model in models:
        model.compile("adam", "mse")
        model.fit(x, y, verbose=0)
        model.predict(x, verbose=0)
    return models


def milliseconds(act: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - start)


def scan() -> int:
    """Looks for models among all objects there are."""
    return sum(isinstance(thing, keras.Model) for thing in gc.get_objects())


def rounds(count: int, base: Any) -> dict[str, list[float]]:
    """Quartiles of `inject`, `eject` and a scan, taken in turn."""
    config = keras_lora.LoRAConfig(rank=4)
    taken: dict[str, list[float]] = {"inject": [], "eject": [], "scan": []}
    for number in range(count + 1):
        row = {
            "inject": milliseconds(lambda: keras_lora.inject(base, config)),
            "eject": milliseconds(lambda: keras_lora.eject(base)),
            "scan": milliseconds(scan),
        }
        if number:  # the first one makes classes
            for name, value in row.items():
                taken[name].append(value)
    return {
        name: [round(q, 3) for q in np.percentile(values, [25, 50, 75, 100])]
        for name, values in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    base = small_model()
    outer = keras.Sequential([base, keras.layers.Dense(1)])
    alone = rounds(options.rounds, base)
    others = fitted(options.models)
    outer.compile("adam", "mse")
    beside = rounds(options.rounds, base)
    assert not outer.compiled and all(model.compiled for model in others)
    result = {
        "backend": keras.backend.backend(),
        "machine": machine(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("keras", keras.backend.backend())
        },
        "settings": {"models": options.models, "rounds": options.rounds},
        "objects": len(gc.get_objects()),
        "alone_ms": alone,
        "beside_ms": beside,
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
