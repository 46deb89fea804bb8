"""The table of what TensorFlow on a CPU takes besides the arithmetic."""

from typing import Any

from benchmarks.markdown import spread, table, where

PLAIN = "as it comes"
COLUMNS = ("first step", "later step", "of it in the kernel")


def first_step(result: dict[str, Any]) -> str:
    """The first step and later ones, with what makes them quicker."""
    rows, lengths = [], result["lengths"]
    for side, row in result["sides"].items():
        cells = [side]
        for name in COLUMNS:
            cells.append(spread(row[name]["seconds"], 2))
            if name != COLUMNS[-1]:
                ratio = row[name]["over_plain"]
                cells.append("" if side == PLAIN else spread(ratio))
        rows.append(cells)
    head = ["TensorFlow on a CPU"]
    head += ["first step, s", "ratio", "later step, s", "ratio"]
    head += ["of it in the kernel, s"]
    return "\n\n".join(
        [
            "## What TensorFlow takes besides",
            "LoRA steps of an encoder with random weights, on batches of "
            f"different lengths ({min(lengths)} to {max(lengths)} tokens); "
            "later steps are their mean. A step that makes "
            "the optimizer's and the metrics' variables in its first call is "
            "traced twice; made before, it is traced once. Later steps spend "
            "time in the kernel, which clears memory that the C library gave "
            "back the step before; tcmalloc keeps it. Each side runs in "
            "processes of its own, and each row adds to the one above.",
            where(result, "python -m benchmarks.first_step"),
            table(head, rows),
        ]
    )
