"""What rows without an adapter cost, and one wide adapter's row.

Four batches take turns: the plain base; rows without an adapter from a bank
that holds some; rows of as many narrow adapters; the same with a wide one in
the place of the last. `benchmarks.serving` runs it.

    python -m benchmarks.wide_row [--wide 128] [--rounds 20]
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import keras_lora
from benchmarks.bank_parts import FILES, fresh, make_files, milliseconds
from benchmarks.train_step import add_settings, batch, build, spread


def wide_row(
    options: argparse.Namespace, files: list[Path], weights: list[Any]
) -> dict[str, Any]:
    """All figures."""
    x, _ = batch(options)
    size = options.batch
    names = [f"task-{number}" for number in range(size)]
    plain = fresh(options, weights)
    narrow, mixed = (
        keras_lora.AdapterBank(fresh(options, weights), size) for _ in range(2)
    )
    for number, name in enumerate(names):
        for bank in (narrow, mixed):
            bank.load(name, files[number % FILES])
    with tempfile.TemporaryDirectory() as folder:
        base = fresh(options, weights)
        [wide, *_] = make_files(base, Path(folder), options.wide)
        mixed.load(names[-1], wide)
    acts: dict[str, Callable[[], Any]] = {
        "base": lambda: plain.predict_on_batch(x),
        "no_adapter": lambda: mixed.predict(x, batch_size=size),
        "narrow": lambda: narrow.predict(x, names, batch_size=size),
        "one_wide": lambda: mixed.predict(x, names, batch_size=size),
    }
    times: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(3 + options.rounds):
        for name, act in acts.items():
            taken = milliseconds(act)
            if number >= 3:
                times[name].append(taken)
    for bank in (narrow, mixed):
        bank.detach()
    found = {name: np.array(values) for name, values in times.items()}
    return {
        "wide": options.wide,
        **{f"{name}_ms": spread(values) for name, values in found.items()},
        "no_adapter_over_base": spread(found["no_adapter"] / found["base"]),
        "one_wide_over_narrow": spread(found["one_wide"] / found["narrow"]),
    }


def main() -> None:
    """Runs the benchmark as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser)
    parser.add_argument("--wide", type=int, default=128)
    options = parser.parse_args()
    base, _ = build(options)
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(base, Path(folder), options.rank)
        print(wide_row(options, files, base.get_weights()))


if __name__ == "__main__":
    main()
