"""What the runs of `benchmarks.methods` come to, as Markdown tables."""

from typing import Any

import numpy as np

Runs = dict[str, Any]
PROBE = "frozen probe"


def tables(
    runs: Runs, plan: str, tasks: tuple[str, ...], names: list[str]
) -> str:
    """All tables of one plan.

    Args:
        runs: The result file's contents.
        plan: `"quick"` or `"full"`.
        tasks: Names of the tasks.
        names: Names of the methods, in order.
    """
    parts = [accuracy_table(runs, plan, task, names) for task in tasks]
    return "\n\n".join([*parts, steps_table(runs, plan, tasks)])


def of_method(
    runs: Runs, plan: str, task: str, name: str
) -> tuple[float, list[Any]] | None:
    """A method's best rate in validation, and its runs at that rate."""
    found: dict[float, dict[int, Any]] = {}
    lead = f"{plan}/{task}/{name}/"
    for run, result in runs.items():
        if run.startswith(lead):
            rate, seed = run.removeprefix(lead).split("/")
            found.setdefault(float(rate), {})[int(seed)] = result
    first = {rate: seeds[0] for rate, seeds in found.items() if 0 in seeds}
    if not first:
        return None
    rate = max(sorted(first), key=lambda rate: first[rate]["validation"])
    return rate, [found[rate][seed] for seed in sorted(found[rate])]


def accuracy_table(runs: Runs, plan: str, task: str, names: list[str]) -> str:
    """Accuracy, size and time of each method on one task."""
    lines = [
        f"**{task}** ({plan})",
        "",
        "| method | rate | accuracy, mean (lowest to highest) | seeds | "
        "trained weights | file | `fit` | base in memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    probe = runs.get(f"{plan}/{task}/{PROBE}")
    if probe:
        lines.append(
            f"| {PROBE} | | {probe['test']:.3f} | 1 | "
            f"{probe['parameters']:,} | | {probe['seconds']:.0f} s | |"
        )
    for name in names:
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
            f"{results[0]['file bytes'] / 1e3:,.0f} kB | {seconds:.0f} s | "
            f"{results[0]['base bytes'][1] / 1e6:.1f} MB |"
        )
    return "\n".join(lines)


def smooth(losses: list[float]) -> Any:
    """The mean of each step's loss and the seven before it."""
    window = 8
    total = np.cumsum([0.0, *losses])
    return (total[window:] - total[:-window]) / window


def steps_to(losses: list[float], goal: float) -> int | None:
    """The first step at which the smoothed loss is at most a goal."""
    reached = np.flatnonzero(smooth(losses) <= goal)
    return int(reached[0]) + 8 if len(reached) else None


def steps_table(runs: Runs, plan: str, tasks: tuple[str, ...]) -> str:
    """Steps to plain LoRA's final loss, as a share of its steps."""
    lines = [
        "Steps until the training loss (mean of 8) is plain LoRA's last, as a "
        "share of all steps; at equal rates, seed 0",
        "",
        "| task | rate | svd | svd-minor | eva | rslora | dora | lora+ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        lead = f"{plan}/{task}/lora/"
        for run in sorted(r for r in runs if r.startswith(lead)):
            rate, seed = run.removeprefix(lead).split("/")
            if seed != "0":
                continue
            goal = smooth(runs[run]["losses"])[-1]
            cells = []
            for name in ("svd", "svd-minor", "eva", "rslora", "dora", "lora+"):
                other = runs.get(f"{plan}/{task}/{name}/{rate}/{seed}")
                reached = steps_to(other["losses"], goal) if other else None
                total = len(runs[run]["losses"])
                cells.append(f"{reached / total:.2f}" if reached else "-")
            lines.append(f"| {task} | {rate} | {' | '.join(cells)} |")
    return "\n".join(lines)
