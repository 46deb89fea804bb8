"""How a training step's time and memory grow with rank, depth and width.

One setting is varied at a time around a 6-layer encoder of width 384 with
rank 8. At each point keras_lora and full fine-tuning take one step each in
turn, on the same batch.

    python -m benchmarks.scaling [--rounds 8] [--json FILE]
"""

import argparse
import json
from typing import Any

from benchmarks.train_step import add_settings, describe, measure_sides

SWEEPS = {
    "rank": (4, 8, 32, 128, 256),
    "layers": (1, 6, 12, 24),
    "width": (128, 384, 768, 1024),
}
SIDES = ("keras_lora", "full fine-tuning")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs every sweep; memory is measured along the rank."""
    result: dict[str, Any] = {**describe(options), "sweeps": {}}
    for name in options.sweeps:
        rows = result["sweeps"][name] = {}
        for value in SWEEPS[name]:
            point = argparse.Namespace(**{**vars(options), name: value})
            point.memory = options.memory and name == "rank"
            rows[str(value)] = measure_sides(point, SIDES)
            show(name, value, rows[str(value)])
    return result


def show(name: str, value: int, sides: dict[str, Any]) -> None:
    """Prints one point."""
    ours, full = (sides[side] for side in SIDES)
    ratio = full["keras_lora_over_it"]
    print(
        f"{name} {value}: {ours['milliseconds'][1]:.0f} ms, full fine-tuning "
        f"{full['milliseconds'][1]:.0f} ms, {ratio[1]:.3f} x "
        f"({ratio[0]:.3f} to {ratio[2]:.3f}), peak "
        f"{ours['peak_mb'] or 0:.0f} / {full['peak_mb'] or 0:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser, batch=8, rounds=8)
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS))
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
