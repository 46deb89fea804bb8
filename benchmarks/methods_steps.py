"""How soon each method had the loss with which plain LoRA ends."""

from typing import Any

import numpy as np

from benchmarks.markdown import table
from benchmarks.methods_runs import PLAIN, Runs, of_method
from benchmarks.names import sentence, short_name, task_name

COMPARED = ("svd", "svd-minor", "eva", "rslora", "dora", "lora+")


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
    plain = of_method(runs, plan, task, PLAIN)
    if plain is None:
        return ""
    best = {
        name: f"{found.rate:g}"
        for name in COMPARED
        if (found := of_method(runs, plan, task, name))
    }
    lead = f"{plan}/{task}/{PLAIN}/"
    wanted = [
        ("each its best", f"{plain.rate:g}", seed, best) for seed in plain.runs
    ]
    for run in sorted(run for run in runs if run.startswith(lead)):
        rate, seed = run.removeprefix(lead).split("/")
        wanted.append((rate, rate, int(seed), dict.fromkeys(COMPARED, rate)))
    rows = []
    for label, rate, seed, of in wanted:
        others = {
            name: runs.get(f"{plan}/{task}/{name}/{of[name]}/{seed}")
            for name in of
        }
        if any(others.values()):
            result = runs[f"{lead}{rate}/{seed}"]
            cells = [share_of_steps(others.get(n), result) for n in COMPARED]
            rows.append([label, str(seed), *cells])
    head = ["rate", "seed", *map(short_name, COMPARED)]
    return f"**{sentence(task_name(task))}**\n\n{table(head, rows)}"


def share_of_steps(other: Any, plain: Any) -> str:
    """How soon a run had the loss with which another ended."""
    if other is None:
        return ""
    reached = steps_to(other["losses"], smooth(plain["losses"])[-1])
    return f"{reached / len(plain['losses']):.2f}" if reached else "never"
