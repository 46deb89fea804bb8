"""The demo's adapters on their tasks, alone and mixed in one bank."""

from typing import Any

from benchmarks.markdown import table
from benchmarks.names import task_name


def tasks(result: dict[str, Any]) -> str:
    """The demo's adapters against the baselines."""
    rows = [
        [
            f"{task_name(name)} (`{name}`)",
            f"{row['accuracy']:.3f}",
            *(f"{value:.3f}" for value in row["baselines"].values()),
            f"{row['trainable']:,} ({row['share']:.2%})",
            f"{row['seconds']:,.0f}",
            f"{row['bytes'] / 1e3:,.0f}",
        ]
        for name, row in result.items()
    ]
    first = next(iter(result.values()))
    head = ["task", "adapter", *first["baselines"], "trainable"]
    head += ["`fit`, s", "file, kB"]
    made = ", ".join(f"{k} {v}" for k, v in first["made_with"].items())
    return "\n\n".join(
        [
            "## The demo's tasks",
            "Accuracy on held-out texts of the adapters that come with the "
            "demo, beside two baselines: a logistic regression on word counts "
            "(TF-IDF), and one on what the frozen base gives. *Trainable* are "
            "the weights that train, with the head, and their share of all. "
            f"One run each, by `python -m app.ship`; {made}.",
            table(head, rows),
        ]
    )


def bank_on_tasks(result: dict[str, Any]) -> str:
    """The demo's adapters mixed in one bank."""
    rows = [
        [
            task_name(name),
            f"{row['texts']:,}",
            f"{row['largest_difference']:.1e}",
            f"{row['accuracy_alone']:.4f}",
            f"{row['accuracy_in_bank']:.4f}",
        ]
        for name, row in result["tasks"].items()
    ]
    head = ["task", "texts", "largest difference", "accuracy alone", "in bank"]
    return "\n\n".join(
        [
            "## The demo's tasks, mixed in one bank",
            "All test texts of the demo's tasks, shuffled into the same "
            "batches of 32, against each task's own model. The *largest "
            "difference* is of logits "
            "(`python -m benchmarks.bank_on_tasks --adapters app/adapters`).",
            table(head, rows),
        ]
    )
