"""The tables of the sweep: the defaults beside the best of it."""

from typing import Any

import numpy as np

from benchmarks.markdown import table, where

Runs = dict[str, Any]
DEFAULTS = "defaults"
POINT = 0.01


def hyper_parameters(result: dict[str, Any]) -> str:
    """The defaults against the best setting of each task, and every run."""
    runs, start = result["runs"], result["start"]
    tasks = list(dict.fromkeys(name.split("/")[0] for name in runs))
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in start.items()
    )
    return "\n\n".join(
        [
            "## Rate, rank and epochs",
            "LoRA on all linear layers of MiniLM. The defaults are "
            f"{settings}. Each run changes one of them. *Best* is the setting "
            "with the highest accuracy on the validation texts, the defaults "
            "included. Accuracy is on held-out texts, and ± is its standard "
            "error: how much it would move with other texts of the same "
            "number. That of a difference is of two answers to the same texts.",
            where(result, "python -m benchmarks.hyper_parameters"),
            "<!-- --8<-- [start:sweep] -->",
            verdict(runs, tasks),
            best_table(runs, tasks),
            "<!-- --8<-- [end:sweep] -->",
            "Accuracy of every setting on the validation texts, seed 0, %:",
            every_table(runs, tasks),
        ]
    )


def best_variant(runs: Runs, task: str) -> str:
    """The setting that is best in validation; among equals, the defaults."""
    found = {
        name.split("/")[1]: run["validation"]
        for name, run in runs.items()
        if name.startswith(f"{task}/") and name.endswith("/0")
    }
    return max(sorted(found, key=DEFAULTS.__ne__), key=found.__getitem__)


def right(runs: Runs, task: str, variant: str, seeds: list[str]) -> Any:
    """The share of the seeds that are right, for each held-out text."""
    shares = []
    for seed in seeds:
        run = runs[f"{task}/{variant}/{seed}"]
        answers = np.ones(run["texts"])
        answers[run["wrong"]] = 0
        shares.append(answers)
    return np.mean(shares, axis=0)


def seeds_of(runs: Runs, task: str, variant: str) -> set[str]:
    """The seeds that a setting was trained with."""
    lead = f"{task}/{variant}/"
    return {name.removeprefix(lead) for name in runs if name.startswith(lead)}


def difference(runs: Runs, task: str) -> dict[str, Any] | None:
    """The best setting and the defaults, at the seeds that both have."""
    best = best_variant(runs, task)
    both = seeds_of(runs, task, best) & seeds_of(runs, task, DEFAULTS)
    if not both:
        return None
    pair = [right(runs, task, name, sorted(both)) for name in (DEFAULTS, best)]
    return {"best": best, "pair": pair, "seeds": len(both)}


def with_error(values: Any, sign: str = "", digits: int = 1) -> str:
    """A mean over texts in points of a hundred, with its standard error."""
    found = values.mean(), values.std() / np.sqrt(len(values))
    mean, error = (100 * value for value in found)
    return f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"


def best_table(runs: Runs, tasks: list[str]) -> str:
    """One row for each task."""
    rows = []
    for task in tasks:
        found = difference(runs, task)
        if found is not None:
            plain, best = found["pair"]
            rows.append(
                [
                    task,
                    with_error(plain),
                    found["best"],
                    with_error(best),
                    with_error(best - plain, "+"),
                    str(found["seeds"]),
                    f"{len(plain):,}",
                ]
            )
    head = ["task", "defaults, %", "best in validation", "best, %"]
    head += ["difference, points", "seeds", "held-out texts"]
    return table(head, rows)


def verdict(runs: Runs, tasks: list[str]) -> str:
    """On how many tasks the defaults are within a point of the best."""
    gaps = {
        task: found["pair"][1] - found["pair"][0]
        for task in tasks
        if (found := difference(runs, task))
    }
    near = [task for task, gap in gaps.items() if gap.mean() <= POINT + 1e-9]
    worst = max(gaps, key=lambda task: gaps[task].mean())
    return (
        f"**The defaults are within a point of the best on {len(near)} of "
        f"{len(gaps)} tasks.** The largest gap is "
        f"{with_error(gaps[worst], digits=2)} points, on {worst}."
    )


def every_table(runs: Runs, tasks: list[str]) -> str:
    """Every setting's accuracy on each task."""
    variants = dict.fromkeys(
        name.split("/")[1] for name in runs if name.endswith("/0")
    )
    ordered = sorted(variants, key=sort_key)
    rows = [
        [
            variant,
            *(
                f"{100 * run['validation']:.1f}" if run else ""
                for run in (runs.get(f"{t}/{variant}/0") for t in tasks)
            ),
        ]
        for variant in ordered
    ]
    return table(["setting", *tasks], rows)


def sort_key(variant: str) -> tuple[bool, str, float]:
    """The defaults, then each setting by its value."""
    name, _, value = variant.rpartition(" ")
    return variant != DEFAULTS, name, float(value) if name else 0.0
