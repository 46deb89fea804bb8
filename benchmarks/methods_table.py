"""What the runs of `benchmarks.methods` come to, as Markdown tables."""

from typing import Any

import numpy as np

Runs = dict[str, Any]
PROBE = "frozen probe"
ORDER = (
    PROBE,
    "full fine-tuning",
    "lora",
    "rslora",
    "svd",
    "svd-minor",
    "eva",
    "dora",
    "lora+",
    "ia3",
    "pfeiffer",
    "houlsby",
    "parallel",
    "lora, last 2 blocks",
    "lora on int8",
    "lora on int4",
)
COMPARED = ("svd", "svd-minor", "eva", "rslora", "dora", "lora+")


def tables(runs: Runs) -> str:
    """Accuracy on each task of each plan, and the steps that losses took.

    Args:
        runs: Results by `plan/task/method/rate/seed`.
    """
    plans = dict.fromkeys(tuple(run.split("/")[:2]) for run in runs)
    parts = [
        table(runs, *plan)
        for table in (accuracy_table, steps_table)
        for plan in plans
    ]
    return "\n\n".join(part for part in parts if part)


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


def accuracy_table(runs: Runs, plan: str, task: str) -> str:
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


def steps_table(runs: Runs, plan: str, task: str) -> str:
    """Steps to plain LoRA's final loss, as a share of its steps."""
    lines = [
        f"**{task}** ({plan}): steps until the training loss, a mean of 8 "
        "steps, is that at which plain LoRA ends, as a share of all steps; at "
        "equal rates and seeds",
        "",
        f"| rate | seed | {' | '.join(COMPARED)} |",
        f"|---|---|{'---|' * len(COMPARED)}",
    ]
    lead = f"{plan}/{task}/lora/"
    plain = sorted(run for run in runs if run.startswith(lead))
    for run in plain:
        rate, seed = run.removeprefix(lead).split("/")
        losses = runs[run]["losses"]
        cells = []
        for name in COMPARED:
            other = runs.get(f"{plan}/{task}/{name}/{rate}/{seed}")
            goal = smooth(losses)[-1]
            reached = steps_to(other["losses"], goal) if other else None
            share = f"{reached / len(losses):.2f}" if reached else "not reached"
            cells.append(share if other else "")
        lines.append(f"| {rate} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines) if plain else ""
