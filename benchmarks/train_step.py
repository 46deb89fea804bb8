"""One training step: keras_lora, Keras's `enable_lora`, full fine-tuning.

All sides train the same encoder (by default 6 layers, width 384) on the same
batch, one step each in turn, so that a noisy machine slows them alike. Two
floors are measured beside them: a frozen encoder with a head, and the forward
pass with gradients of all activations but of no kernel.

    python -m benchmarks.train_step [--rounds 20] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from benchmarks.processes import printed

SIDES = (
    "keras_lora",
    "enable_lora",
    "full fine-tuning",
    "activation floor",
    "frozen and head",
)


def build(options: argparse.Namespace) -> tuple[Any, Any]:
    """A random encoder with mean-pooled features, and the outer model."""
    from keras_hub.models import BertBackbone

    backbone = BertBackbone(
        vocabulary_size=30522,
        num_layers=options.layers,
        num_heads=options.width // 32,
        hidden_dim=options.width,
        intermediate_dim=4 * options.width,
        max_sequence_length=512,
    )
    pooled = keras.layers.GlobalAveragePooling1D()(
        backbone.output["sequence_output"], mask=backbone.input["padding_mask"]
    )
    base = keras.Model(backbone.input, pooled)
    return base, keras.Sequential([base, keras.layers.Dense(2)])


def prepare(side: str, options: argparse.Namespace) -> Any:
    """The compiled model of one side."""
    base, model = build(options)
    targets = [
        layer
        for layer in base._flatten_layers(include_self=False)
        if isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense))
    ]
    if side == "keras_lora":
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=options.rank))
    elif side != "full fine-tuning":
        for layer in base._flatten_layers(include_self=False):
            layer.trainable = not layer.weights or bool(layer._layers)
        for layer in base._flatten_layers(include_self=False):
            for variable in layer._trainable_variables:
                variable.trainable = False
    if side == "enable_lora":
        for layer in targets:
            layer.trainable = True
            layer.enable_lora(options.rank)
            if layer.bias is not None:
                layer.bias.trainable = False
    elif side == "activation floor":
        norm = base.get_layer("embeddings_layer_norm")
        norm.trainable = True
        norm.gamma.trainable = False
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def batch(options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Random tokens, none of them padding."""
    rng = np.random.default_rng(0)
    shape = (options.batch, options.tokens)
    x = {
        "token_ids": rng.integers(0, 30522, shape).astype("int32"),
        "segment_ids": np.zeros(shape, "int32"),
        "padding_mask": np.ones(shape, "int32"),
    }
    return x, rng.integers(0, 2, options.batch)


def step(model: Any, data: tuple[Any, Any]) -> float:
    """Seconds that one step takes."""
    start = time.perf_counter()
    float(model.train_on_batch(*data))
    return time.perf_counter() - start


def peak_memory(side: str, options: argparse.Namespace) -> float:
    """Peak resident MB of a process that trains one side for 5 steps."""
    names = SETTINGS[:-1]
    return float(printed("train_step", {"peak": side}, options, names))


def print_peak(side: str, options: argparse.Namespace) -> None:
    """Trains one side for 5 steps and prints the process's peak in MB."""
    model, data = prepare(side, options), batch(options)
    for _ in range(5):
        step(model, data)
    # `getrusage` would count what the parent held when it started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)


def spread(values: Any) -> list[float]:
    """First quartile, median and third quartile."""
    return [float(v) for v in np.percentile(values, (25, 50, 75))]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all sides, and says on what."""
    return {**describe(options), "sides": measure_sides(options, SIDES)}


def measure_sides(
    options: argparse.Namespace, sides: Sequence[str]
) -> dict[str, Any]:
    """Times sides in turn, then each side's memory by itself."""
    data = batch(options)
    models = {side: prepare(side, options) for side in sides}
    for model in models.values():
        for _ in range(2):
            step(model, data)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side, model in models.items():
            times[side].append(step(model, data))
        print(f"\rround {number + 1} of {options.rounds}", end="", flush=True)
    print()
    rows = {}
    for side, model in models.items():
        ours = np.array(times["keras_lora"])
        rows[side] = {
            "milliseconds": spread(1e3 * np.array(times[side])),
            "keras_lora_over_it": spread(ours / np.array(times[side])),
            "trainable": sum(
                int(np.prod(v.shape)) for v in model.trainable_weights
            ),
            "peak_mb": peak_memory(side, options) if options.memory else None,
        }
    return rows


SETTINGS = ("layers", "width", "batch", "tokens", "rank", "rounds")


def describe(
    options: argparse.Namespace, names: Sequence[str] = SETTINGS
) -> dict[str, Any]:
    """What a result depends on besides the code."""
    return {
        "settings": {name: getattr(options, name) for name in names},
        "backend": keras.backend.backend(),
        "versions": versions(),
        "machine": machine(),
    }


def machine() -> str:
    """What the benchmark runs on, and how much of it TensorFlow was given.

    It names the memory allocator if that is not the C library's own.
    """
    found = [platform.machine(), f"{os.cpu_count()} cores"]
    if threads := os.environ.get("TF_NUM_INTRAOP_THREADS"):
        found[-1] += f", {threads} of them used"
    loaded = os.environ.get("LD_PRELOAD", "")
    found += [name for name in ("tcmalloc", "jemalloc") if name in loaded]
    return ", ".join(found)


def versions() -> dict[str, str]:
    """Of Keras, its backend and Python."""
    return {
        "keras": keras.__version__,
        keras.backend.backend(): backend_version(),
        "python": platform.python_version(),
    }


def backend_version() -> str:
    """The version of Keras's backend."""
    return importlib.metadata.version(keras.backend.backend())


def add_settings(
    parser: argparse.ArgumentParser, batch: int = 32, rounds: int = 20
) -> None:
    """The options that the benchmarks on a random encoder share."""
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--json", type=Path, help="also write the result here")


def show(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    print(f"{result['backend']}, {result['machine']}, {result['settings']}")
    line = "{:18} {:>10} {:>26} {:>12} {:>10}"
    print(
        line.format(
            "side", "ms a step", "keras_lora / it", "trainable", "peak MB"
        )
    )
    for side, row in result["sides"].items():
        low, middle, high = row["keras_lora_over_it"]
        print(
            line.format(
                side,
                f"{row['milliseconds'][1]:.0f}",
                f"{middle:.3f} ({low:.3f} to {high:.3f})",
                f"{row['trainable']:,}",
                "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
            )
        )


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser)
    parser.add_argument("--peak", choices=SIDES, help="only print one peak")
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak, options)
        return
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
