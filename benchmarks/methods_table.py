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
        "equal seeds, each method at the rate that is best for it or all at "
        "one",
        "",
        f"| rate | seed | {' | '.join(COMPARED)} |",
        f"|---|---|{'---|' * len(COMPARED)}",
    ]
    plain = of_method(runs, plan, task, "lora")
    if plain is None:
        return ""
    best = {
        name: f"{found[0]:g}"
        for name in COMPARED
        if (found := of_method(runs, plan, task, name))
    }
    lead = f"{plan}/{task}/lora/"
    rows = [
        ("each its best", f"{plain[0]:g}", seed, best)
        for seed in range(len(plain[1]))
    ]
    for run in sorted(run for run in runs if run.startswith(lead)):
        rate, seed = run.removeprefix(lead).split("/")
        rows.append((rate, rate, int(seed), dict.fromkeys(COMPARED, rate)))
    for label, rate, seed, of in rows:
        others = {
            name: runs.get(f"{plan}/{task}/{name}/{of[name]}/{seed}")
            for name in of
        }
        if any(others.values()):
            result = runs[f"{lead}{rate}/{seed}"]
            cells = [share_of_steps(others.get(n), result) for n in COMPARED]
            lines.append(f"| {label} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share_of_steps(other: Any, plain: Any) -> str:
    """How soon a run had the loss with which another ended."""
    if other is None:
        return ""
    reached = steps_to(other["losses"], smooth(plain["losses"])[-1])
    return f"{reached / len(plain['losses']):.2f}" if reached else "not reached"


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
