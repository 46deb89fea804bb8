"""What the runs of `benchmarks.methods` come to, as Markdown tables."""

from typing import Any

import numpy as np

from benchmarks.methods_runs import ORDER, PROBE, Runs, of_method
from benchmarks.methods_steps import steps_table


def methods(result: dict[str, Any]) -> str:
    """Every method on two tasks."""
    names = dict.fromkeys(run.split("/")[0] for run in result["runs"])
    plans = "; ".join(
        f"*{name}*: {result['plans'][name]['texts'] or 'all'} training texts, "
        f"{result['plans'][name]['epochs']} epochs"
        for name in names
    )
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return "\n\n".join(
        [
            "## Methods",
            "The same base, texts, epochs and head for all; the learning rate "
            "of each is the one that does best in validation, at seed 0, among "
            "up to five. "
            f"{plans}. A mean is over as many seeds as the table says; `fit` "
            "is the median, of one core each with two runs at a time. "
            f"`python -m benchmarks.methods` on {result['machine']}; "
            f"{versions}; backend {result['backend']}.",
            tables(result["runs"]),
        ]
    )


def tables(runs: Runs) -> str:
    """Accuracy, sizes and the steps that losses took, task by task.

    Args:
        runs: Results by `plan/task/method/rate/seed`.
    """
    plans = dict.fromkeys(tuple(run.split("/")[:2]) for run in runs)
    parts = [
        table(runs, *plan)
        for plan in plans
        for table in (accuracy_table, sizes, verdict, steps_table)
    ]
    return "\n\n".join(part for part in parts if part)


def accuracy_table(runs: Runs, plan: str, task: str) -> str:
    """Accuracy, size and time of each method on one task."""
    lines = [
        f"**{task}** ({plan})",
        "",
        "| method | rate | accuracy, mean (lowest to highest) | seeds | "
        "trained weights | file | `fit` |",
        "|---|---|---|---|---|---|---|",
    ]
    probe = runs.get(f"{plan}/{task}/{PROBE}")
    if probe:
        lines.append(
            f"| {PROBE} | | {probe['test']:.3f} | 1 | "
            f"{probe['parameters']:,} | | {probe['seconds']:.0f} s |"
        )
    names = dict.fromkeys(
        run.split("/")[2] for run in runs if run.startswith(f"{plan}/{task}/")
    )
    for name in sorted(names, key=ORDER.index):
        found = of_method(runs, plan, task, name)
        if found is None:
            continue
        rate, results = found
        tests = [result["test"] for result in results]
        seconds = np.median([result["seconds"] for result in results])
        lines.append(
            f"| {name} | {rate:g} | {np.mean(tests):.3f} "
            f"({min(tests):.3f} to {max(tests):.3f}) | {len(tests)} | "
            f"{results[0]['parameters']:,} | "
            f"{results[0]['file bytes'] / 1e3:,.0f} kB | {seconds:.0f} s |"
        )
    return "\n".join(lines)


def sizes(runs: Runs, plan: str, task: str) -> str:
    """What the base's weights take in memory, as they are and quantized."""
    lead = f"{plan}/{task}/"
    found = {
        run.split("/")[2]: [size / 1e6 for size in result["base bytes"]]
        for run, result in runs.items()
        if run.startswith(lead) and "base bytes" in result
    }
    if not found:
        return ""
    plain = next(iter(found.values()))[0]
    smaller = "".join(
        f", {after:.1f} MB for *{name}*"
        for name, (before, after) in found.items()
        if after < before
    )
    return f"The base's weights take {plain:.1f} MB{smaller}."


def verdict(runs: Runs, plan: str, task: str) -> str:
    """Which methods did better than plain LoRA, by more than seeds differ."""
    probe = runs.get(f"{plan}/{task}/{PROBE}")
    found = {
        name: [result["test"] for result in method[1]]
        for name in ORDER
        if (method := of_method(runs, plan, task, name))
    }
    plain = found.pop("lora", None)
    if plain is None or probe is None:
        return ""
    said = {
        "above plain LoRA at every seed": [
            name for name, tests in found.items() if min(tests) > max(plain)
        ],
        "below it at every seed": [
            name for name, tests in found.items() if max(tests) < min(plain)
        ],
        "below the frozen probe on average": [
            name
            for name, tests in found.items()
            if np.mean(tests) < probe["test"]
        ],
    }
    words = [
        f"- {what}: {', '.join(f'*{name}*' for name in names) or 'none'}"
        for what, names in said.items()
    ]
    return "\n".join([f"**{task}** ({plan}), on held-out texts:", "", *words])
