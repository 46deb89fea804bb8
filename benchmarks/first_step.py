"""What TensorFlow on a CPU takes besides the arithmetic of a LoRA step.

Two things make it slow without need. A step that makes variables in its first
call, those of the optimizer and of the metrics, is traced twice. And the C
library gives large blocks of memory back to the system, which has to clear them
when they are asked for again: the kernel's share of a step. It is largest where
batches have different lengths, as here and as texts have.

Each side runs in processes of its own, which take turns.

    python -m benchmarks.first_step [--rounds 3] [--json FILE]

The last side wants tcmalloc (Debian's `libtcmalloc-minimal4`), and is left out
without it.
"""

import argparse
import ctypes.util
import json
import os
import time
from typing import Any

import keras
import numpy as np

import keras_lora
from app.learn.training import make_variables
from benchmarks.first_step_table import COLUMNS, PLAIN, first_step
from benchmarks.processes import by_turns, printed
from benchmarks.train_step import add_settings, batch, build, describe, spread

MADE, KEPT = "variables made before", "and memory kept by tcmalloc"
TCMALLOC = ctypes.util.find_library("tcmalloc_minimal")
SIDES = (PLAIN, MADE, KEPT) if TCMALLOC else (PLAIN, MADE)
MODEL = ("layers", "width", "batch", "rank")
STEPS = 25
LENGTHS = (24, 16, 40, 32, 8, 64, 24, 48)


def prepare(options: argparse.Namespace) -> Any:
    """A compiled classifier with LoRA on all linear layers."""
    base, model = build(options)
    keras_lora.inject(base, keras_lora.LoRAConfig(options.rank))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


class Batches(keras.utils.PyDataset):
    """Batches of the lengths of `LENGTHS`, in turn."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        length = LENGTHS[index % len(LENGTHS)]
        return {name: row[:, :length] for name, row in self.x.items()}, self.y


class Steps(keras.callbacks.Callback):
    """When each step began, and the kernel's seconds by then."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Adds this moment."""
        self.marks.append((time.perf_counter(), os.times().system))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.mark()


def print_steps(side: str, options: argparse.Namespace) -> None:
    """Trains a few steps; prints the first one's seconds and the others'."""
    x, y = batch(options)
    model, steps = prepare(options), Steps()
    steps.mark()
    if side != PLAIN:
        row = {name: rows[:1] for name, rows in x.items()}
        make_variables(model, y[:1], model(row))
    model.fit(Batches(x, y), verbose=0, shuffle=False, callbacks=[steps])
    marks = np.array(steps.marks)
    seconds, kernel = (marks[-1] - marks[1]) / (len(marks) - 2)
    print(json.dumps([marks[1, 0] - marks[0, 0], seconds, kernel]))


def run(side: str, options: argparse.Namespace) -> Any:
    """What a new process prints."""
    extra = {"LD_PRELOAD": TCMALLOC} if side == KEPT and TCMALLOC else {}
    return printed("first_step", {"side": side}, options, MODEL, extra)


def main() -> None:
    """Runs the benchmark as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser, rounds=3)
    parser.set_defaults(tokens=max(LENGTHS))
    parser.add_argument("--side", choices=SIDES, help="only print one process")
    options = parser.parse_args()
    if options.side:
        print_steps(options.side, options)
        return
    values = by_turns(SIDES, options.rounds, lambda side: run(side, options))
    result: dict[str, Any] = {
        **describe(options, (*MODEL, "rounds")),
        "lengths": LENGTHS,
        "sides": {
            side: {
                name: {
                    "seconds": spread(rows[:, place]),
                    "over_plain": spread(
                        rows[:, place] / values[PLAIN][:, place]
                    ),
                }
                for place, name in enumerate(COLUMNS)
            }
            for side, rows in values.items()
        },
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(first_step(result))


if __name__ == "__main__":
    main()
