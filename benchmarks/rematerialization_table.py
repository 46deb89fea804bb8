"""The table of rematerialized blocks."""

from typing import Any

from benchmarks.markdown import spread, table, where


def rematerialization(result: dict[str, Any]) -> str:
    """Memory and time of a step with and without kept activations."""
    names = {
        "peak_mb": ("peak of the process, MB", 0),
        "step_mb": ("of it the steps', MB", 0),
        "seconds": ("seconds a step", 2),
    }
    rows = [
        [label]
        + [spread(side[name], digits) for side in result["sides"].values()]
        + [spread(result["over_kept"][name])]
        for name, (label, digits) in names.items()
    ]
    head = ["", "activations kept", "blocks rematerialized", "ratio"]
    return "\n\n".join(
        [
            "## Rematerialized blocks",
            "A LoRA step of an encoder with random weights, whose blocks keep "
            "their inputs alone (`keras.remat`) and are run once more on the "
            "way back; each side in processes of its own. *The steps'* is "
            "what the peak is above the memory held before the first step.",
            where(result, "python -m benchmarks.rematerialization"),
            table(head, rows),
        ]
    )
