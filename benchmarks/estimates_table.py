"""The table of what the demo foretells of a training."""

from typing import Any

from benchmarks.markdown import table, where

METHODS = {"lora": "LoRA", "bottleneck": "bottlenecks", "side": "a ladder"}


def estimates(result: dict[str, Any]) -> str:
    """What is foretold beside what it took."""
    rows = []
    for run in result["runs"]:
        cells = [
            METHODS[run["method"]],
            f"{run['texts']:,}",
            f"{run['epochs']}",
            f"{run['seconds']:,.0f}",
        ]
        for name in ("at first", "from the last run"):
            told = run[name]
            cells.append("" if told is None else f"{told:,.0f}")
            share = "" if told is None else f"{told / run['seconds']:.2f}"
            cells.append(share)
        rows.append(cells)
    head = ["method", "texts", "epochs", "took, s", "at first, s", "ratio"]
    head += ["from the last run, s", "ratio"]
    return "\n\n".join(
        [
            "## What the demo foretells of a training",
            "*Took* is the whole run: a copy of the base, the baselines, "
            "tracing, `fit` and the test. *At first* is what the page tells "
            "before anything was trained on this server, from the base's "
            "forward pass; its factors were set by such runs here and on a "
            "machine four times as slow, where three runs give ratios of 0.78. "
            "*From the last run* is told from the warm steps of the run before "
            "it by the same method. A *ratio* is what was told over what it "
            "took.",
            where(result, "python -m benchmarks.estimates"),
            table(head, rows),
        ]
    )
