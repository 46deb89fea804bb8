"""The table of what trains on features that are computed once."""

from typing import Any

from benchmarks.markdown import spread, table, where
from benchmarks.names import task_name


def computed_once(result: dict[str, Any]) -> str:
    """Adapters in the last blocks, and a ladder beside all of them."""
    rows = []
    for task, sides in result["tasks"].items():
        for side, row in sides.items():
            cached = "features_mb" in row
            rows.append(
                [
                    f"{task_name(task)}: {side}",
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
    head = ["what trains", "epoch, s", "over the first row's", "job, s"]
    head += ["over the first row's", "accuracy", "once, s", "features, MB"]
    head += ["trainable"]
    return "\n\n".join(
        [
            "## What is computed once",
            "The first row of a task trains LoRA on all linear layers of all "
            "six blocks of MiniLM. The others train on features that `split` "
            "and `precompute` keep in float16: LoRA in the last three or two "
            "blocks, or a ladder (`SideConfig`) beside all six. An *epoch* is "
            "one pass over the training texts, from the second on; the first "
            "also traces. A *job* is all that is done from the texts to the "
            "adapter's file: tracing, the one pass of the frozen part and all "
            "epochs. *Once* is the time of that one pass, and *features* are "
            "what it keeps. *Trainable* are the weights that train, with the "
            "head. Accuracy is on held-out texts: the mean of the seeds, and "
            "their range.",
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
