"""The table of rematerialized blocks."""

from typing import Any

from benchmarks.markdown import spread, table, where


def rematerialization(result: dict[str, Any]) -> str:
    """Memory and time of a step with and without kept activations."""
    columns = ("step_mb", "peak_mb", "seconds")
    digits = {"step_mb": 0, "peak_mb": 0, "seconds": 2}
    rows = []
    for side, row in result["sides"].items():
        cells = [side]
        for name in columns:
            cells.append(spread(row[name], digits[name]))
            cells.append(
                "" if side == "all keep" else spread(row["over_kept"][name])
            )
        rows.append(cells)
    head = ["activations", "the steps' MB", "ratio", "the process's MB"]
    head += ["ratio", "seconds per step", "ratio"]
    return "\n\n".join(
        [
            "## Rematerialized blocks",
            "A LoRA step of an encoder with random weights. A block that does "
            "not keep its activations keeps its inputs alone (`keras.remat`) "
            "and is run once more on the way back. Each side runs in "
            "processes of its own. *The process's* memory is its peak, and "
            "*the steps'* is how far that is above what it held before the "
            "first step. A *ratio* is to the row in which all blocks keep "
            "theirs. The last block's activations are needed at once, so "
            "keeping them costs no memory.",
            where(result, "python -m benchmarks.rematerialization"),
            table(head, rows),
        ]
    )
