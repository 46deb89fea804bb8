"""The table of what trains on features that are computed once."""

from typing import Any

from benchmarks.markdown import spread, table, where


def computed_once(result: dict[str, Any]) -> str:
    """Adapters in the last blocks, and a ladder beside all of them."""
    rows = []
    for task, sides in result["tasks"].items():
        for side, row in sides.items():
            cached = "features_mb" in row
            rows.append(
                [
                    f"{task}: {side}",
                    spread(row["epoch_seconds"], 1),
                    spread(row["over_all"]) if cached else "",
                    f"{row['job_seconds'][1]:.0f}",
                    spread(row["job_over_all"]) if cached else "",
                    of_seeds(row["accuracy"]),
                    f"{row['precompute_seconds'][1]:.1f}" if cached else "",
                    f"{row['features_mb']:,.0f}" if cached else "",
                    f"{row['trainable']:,}",
                ]
            )
    head = ["what trains", "epoch, s", "over all blocks'", "job, s"]
    head += ["over all blocks'", "accuracy", "once, s", "features, MB"]
    head += ["trainable"]
    return "\n\n".join(
        [
            "## What is computed once",
            "MiniLM with LoRA (rank 8) on all linear layers of all six "
            "blocks; and, by `split` and `precompute` in float16, of the last "
            "three or two, or with a ladder (`SideConfig`) beside all six. "
            "*Epoch*: seconds from the second one on, the sides taking turns. "
            "*Job*: from texts to file with all epochs, tracing and the pass "
            "of the frozen part (*once*). Accuracy is on held-out texts: the "
            "mean of the seeds, and their range.",
            where(result, "python -m benchmarks.computed_once"),
            table(head, rows),
        ]
    )


def of_seeds(accuracy: list[float]) -> str:
    """The mean, and the range where there are several."""
    mean = f"{sum(accuracy) / len(accuracy):.3f}"
    if len(accuracy) == 1:
        return f"{mean} (one seed)"
    low, high = min(accuracy), max(accuracy)
    return f"{mean} ({low:.3f} to {high:.3f}; {len(accuracy)} seeds)"
