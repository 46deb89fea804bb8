"""The table of training the last blocks alone."""

from typing import Any

from benchmarks.markdown import spread, table, where


def last_blocks(result: dict[str, Any]) -> str:
    """Adapters in the last blocks, on features that are computed once."""
    rows = []
    for task, sides in result["tasks"].items():
        for side, row in sides.items():
            accuracy = row["accuracy"]
            cached = "features_mb" in row
            rows.append(
                [
                    f"{task}: {side}",
                    spread(row["epoch_seconds"], 1),
                    spread(row["over_all"]) if cached else "",
                    f"{sum(accuracy) / len(accuracy):.3f} "
                    f"({min(accuracy):.3f} to {max(accuracy):.3f})",
                    f"{row['precompute_seconds'][1]:.1f}" if cached else "",
                    f"{row['features_mb']:,.0f}" if cached else "",
                    f"{row['trainable']:,}",
                ]
            )
    head = ["LoRA on", "seconds an epoch", "over all blocks'"]
    head += ["accuracy", "once, s", "features, MB", "trainable"]
    return "\n\n".join(
        [
            "## The last blocks alone",
            "MiniLM with LoRA on all linear layers of all six blocks, and of "
            "the last three or two by `split` and `precompute` (float16): "
            "seconds an epoch from the second on, the sides taking turns; "
            "accuracy on held-out texts, the mean of the seeds and their "
            "range. *Once* is the pass of the frozen part over the training "
            "texts.",
            where(result, "python -m benchmarks.last_blocks"),
            table(head, rows),
        ]
    )
