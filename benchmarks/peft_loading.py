"""How long a PEFT folder takes to load, next to an adapter file of ours.

A LoRA of rank 16 on all linear layers goes onto a backbone of about 100
million weights, as a PEFT folder and as a file with the same content. The two
take turns in one process; the base is plain before each.

    python -m benchmarks.peft_loading [--rounds 10] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

import keras_lora
from benchmarks.train_step import machine

FAMILIES = {
    "Llama": {
        "vocabulary_size": 16000,
        "num_layers": 12,
        "num_query_heads": 12,
        "num_key_value_heads": 12,
        "hidden_dim": 768,
        "intermediate_dim": 2048,
    },
    "GPT2": {
        "vocabulary_size": 20000,
        "num_layers": 12,
        "num_heads": 12,
        "hidden_dim": 768,
        "intermediate_dim": 3072,
        "max_sequence_length": 128,
    },
}


def filled(model: Any) -> Any:
    """Gives every adapter weight a value that is not zero."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape) * 0.1)
    return model


def seconds(act: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def measure(name: str, rounds: int, work: Path) -> dict[str, Any]:
    """Quartiles of both ways and of their ratio."""
    base = getattr(keras_hub.models, f"{name}Backbone")(**FAMILIES[name])
    filled(keras_lora.inject(base, keras_lora.LoRAConfig(rank=16)))
    file, folder = work / f"{name}.safetensors", work / name
    keras_lora.save_adapter(base, file)
    keras_lora.save_peft(base, folder)
    keras_lora.eject(base)
    ways = {
        "load_adapter": lambda: keras_lora.load_adapter(base, file),
        "load_peft": lambda: keras_lora.load_peft(base, folder),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, load in ways.items():
            took = seconds(load)
            keras_lora.eject(base)
            if number:  # the first round warms up
                times[way].append(took)
    ratio = np.divide(times["load_peft"], times["load_adapter"])
    quartiles = (25, 50, 75)
    return {
        "weights": base.count_params(),
        "seconds": {
            w: np.percentile(t, quartiles).tolist() for w, t in times.items()
        },
        "ratio": np.percentile(ratio, quartiles).tolist(),
    }


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    packages = ("keras", "keras-hub", keras.backend.backend())
    result: dict[str, Any] = {
        "machine": machine(),
        "backend": keras.backend.backend(),
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "settings": {"rank": 16, "rounds": options.rounds},
        "families": {},
    }
    with tempfile.TemporaryDirectory() as work:
        for name in FAMILIES:
            row = measure(name, options.rounds, Path(work))
            result["families"][name] = row
            print(name, json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
