"""Which runs `benchmarks.methods` wants, and in which order."""

from collections.abc import Sequence
from typing import Any

from benchmarks.methods_list import METHODS, QUICK, Plan
from benchmarks.methods_runs import SEEDS, TASKS, Runs

RATES = 3
"""Rates that the full plan tries."""

Run = tuple[str, str, float, int]
"""Task, method, rate and seed."""


def key(plan: Plan, task: str, name: str, rate: float, seed: int) -> str:
    """What a run is called in the result file."""
    return f"{plan.name}/{task}/{name}/{rate:g}/{seed}"


def tried_rates(
    runs: Runs, plan: Plan, task: str, name: str
) -> dict[float, float]:
    """The accuracy in validation at each rate that was tried (seed 0)."""
    found: dict[float, Any] = {
        rate: runs.get(key(plan, task, name, rate, SEEDS[0]))
        for rate in METHODS[name].rates
    }
    return {rate: run["validation"] for rate, run in found.items() if run}


def best_rate(runs: Runs, plan: Plan, task: str, name: str) -> float | None:
    """The rate that does best in validation, of those that were tried."""
    tried = tried_rates(runs, plan, task, name)
    return max(tried, key=tried.__getitem__) if tried else None


def wanted_rates(
    runs: Runs, plan: Plan, task: str, name: str
) -> tuple[float, ...]:
    """The rates that a plan tries, as far as is known by now.

    The quick plan tries two in the middle, then each beside the best so far.
    The full plan tries the quick plan's best and those beside it.
    """
    rates = METHODS[name].rates
    if plan == QUICK:
        tried = tried_rates(runs, plan, task, name)
        if not all(rate in tried for rate in rates[1:3]):
            return rates[1:3]
        best = rates.index(max(tried, key=tried.__getitem__))
        return rates[max(0, best - 1) : best + 2]
    quick = best_rate(runs, QUICK, task, name)
    middle = len(rates) // 2 if quick is None else rates.index(quick)
    first = min(max(0, middle - 1), len(rates) - RATES)
    return rates[first : first + RATES]


def next_rate(runs: Runs, plan: Plan, task: str, name: str) -> float | None:
    """A rate that is still to be tried."""
    tried = tried_rates(runs, plan, task, name)
    wanted = wanted_rates(runs, plan, task, name)
    return next((rate for rate in wanted if rate not in tried), None)


def next_run(
    runs: Runs, plan: Plan, names: Sequence[str], tasks: Sequence[str] = TASKS
) -> Run | None:
    """The first run that is missing: seed by seed, then task by task.

    The first seed has all rates, the others have the best one. Methods come
    as they are named, so that a measurement that is cut has the most wanted.
    """
    for seed in SEEDS:
        for task in tasks:
            for name in names:
                if seed == SEEDS[0]:
                    rate = next_rate(runs, plan, task, name)
                else:
                    rate = best_rate(runs, plan, task, name)
                if rate is not None and (
                    key(plan, task, name, rate, seed) not in runs
                ):
                    return task, name, rate, seed
    return None
