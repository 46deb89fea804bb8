"""What a training step of a language model takes, by rank and by length.

Peak memory and time of LoRA steps of a GPT-2 of random weights, each in a
process of its own, which take turns. The lengths are measured again with parts
of the model rematerialized: the activation functions alone, by
`keras.RematScope`, and whole blocks, by `keras.remat`.

    python -m benchmarks.language_memory [--rounds 3] [--json FILE]
"""

import argparse
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from benchmarks.processes import by_turns, printed
from benchmarks.train_step import describe

SETTINGS = ("layers", "width", "batch", "rank", "rounds", "vocabulary")

LENGTHS = (128, 512, 1024)
RANKS = (4, 16, 64)
WAYS = ("plain", "activations", "blocks")
STEPS = 4


def rematerialized(layer: Any) -> None:
    """Keeps a layer's inputs alone; the rest is computed once more."""
    call = layer.call

    def again(*inputs: Any, **options: Any) -> Any:
        return keras.remat(lambda *inputs: call(*inputs, **options))(*inputs)

    layer.call = again


def prepare(way: str, length: int, options: argparse.Namespace) -> Any:
    """An adapted language model, compiled."""
    import keras_hub

    scope: Any = contextlib.nullcontext()
    if way == "activations":
        scope = keras.RematScope("activations")
    with scope:
        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=options.vocabulary,
            num_layers=options.layers,
            num_heads=options.width // 64,
            hidden_dim=options.width,
            intermediate_dim=4 * options.width,
            max_sequence_length=length,
            dropout=0.0,
        )
        model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    if way == "blocks":
        for block in backbone.transformer_layers:
            rematerialized(block)
    keras_lora.inject(model, keras_lora.LoRAConfig(options.rank))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), weighted_metrics=[])
    return model


def print_step(way: str, length: int, options: argparse.Namespace) -> None:
    """Trains a few steps; prints the process's peak and a step's seconds."""
    model = prepare(way, length, options)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, options.vocabulary, (options.batch, length))
    x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        float(model.train_on_batch(x, np.roll(tokens, -1, 1)))
        times.append(time.perf_counter() - start)
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    print(json.dumps([peak, float(np.median(times[1:]))]))


def run(cell: tuple[str, int, int], options: argparse.Namespace) -> Any:
    """Peak MB and a step's seconds, of a new process."""
    own = dict(zip(("cell", "tokens", "rank"), cell, strict=True))
    names = ("layers", "width", "batch", "vocabulary")
    return printed("language_memory", own, options, names)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cells in turn, several times over."""
    cells = [("plain", length, rank) for length in LENGTHS for rank in RANKS]
    cells += [
        (way, length, options.rank) for length in LENGTHS for way in WAYS[1:]
    ]
    found = by_turns(cells, options.rounds, lambda cell: run(cell, options))
    rows = []
    for (way, length, rank), values in found.items():
        peak, seconds = np.median(values, axis=0)
        row = {"way": way, "length": length, "rank": rank}
        rows.append({**row, "peak_mb": peak, "seconds": seconds})
    return {**describe(options, SETTINGS), "cells": rows}


def main() -> None:
    """Measures, prints, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cell", choices=WAYS, help="only print one cell")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    if options.cell:
        print_step(options.cell, options.tokens, options)
        return
    result = measure(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
