"""What rematerialized blocks save in a LoRA step of an encoder, and cost.

The last block's activations are needed at once: to drop them saves nothing.
So a side is how many of the last blocks keep theirs.

Each side runs in processes of its own, which take turns: the peak of a process
is that of everything it ever did. What the process held before its first step
is measured beside it.

    python -m benchmarks.rematerialization [--rounds 5] [--json FILE]
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from benchmarks.language_memory import rematerialized
from benchmarks.processes import by_turns, printed
from benchmarks.rematerialization_table import rematerialization
from benchmarks.train_step import add_settings, batch, build, describe, spread

SIDES = {
    "all keep": None,
    "none keeps": 0,
    "the last keeps": 1,
    "the last 2 keep": 2,
}
"""How many of the last blocks keep their activations; None for all."""
MODEL = ("layers", "width", "batch", "tokens", "rank")
STEPS = 6


def megabytes(name: str) -> float:
    """What the system says of this process's memory."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def print_steps(side: str, options: argparse.Namespace) -> None:
    """Trains a few steps; prints memory before, its peak, and seconds."""
    base, model = build(options)
    keep = SIDES[side]
    if keep is not None:
        blocks = [la for la in base.layers if "transformer_layer" in la.name]
        for block in blocks[: len(blocks) - keep]:
            rematerialized(block)
    keras_lora.inject(base, keras_lora.LoRAConfig(options.rank))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    x, y = batch(options)
    before, times = megabytes("VmRSS"), []
    for _ in range(STEPS):
        start = time.perf_counter()
        float(model.train_on_batch(x, y))
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[2:]))
    print(json.dumps([before, megabytes("VmHWM"), seconds]))


def by_name(names: tuple[str, ...], rows: Any) -> dict[str, list[float]]:
    """The spread of each column."""
    return {n: spread(column) for n, column in zip(names, rows.T, strict=True)}


def main() -> None:
    """Runs the benchmark as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser, rounds=5)
    parser.set_defaults(tokens=128)
    parser.add_argument("--side", choices=SIDES, help="only print one process")
    options = parser.parse_args()
    if options.side:
        print_steps(options.side, options)
        return
    values = by_turns(
        SIDES,
        options.rounds,
        lambda side: printed(
            "rematerialization", {"side": side}, options, MODEL
        ),
    )
    for side, rows in values.items():
        values[side] = np.column_stack([rows, rows[:, 1] - rows[:, 0]])
    kept = values["all keep"]
    names = ("before_mb", "peak_mb", "seconds", "step_mb")
    result: dict[str, Any] = {
        **describe(options, (*MODEL, "rounds")),
        "sides": {
            side: {
                **by_name(names, rows),
                "over_kept": by_name(names, rows / kept),
            }
            for side, rows in values.items()
        },
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(rematerialization(result))


if __name__ == "__main__":
    main()
