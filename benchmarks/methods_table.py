"""What the runs of `benchmarks.methods` come to, as Markdown tables."""

from typing import Any

import numpy as np

from benchmarks.markdown import SPACE, spread, table
from benchmarks.methods_runs import (
    ORDER,
    PLAIN,
    PROBE,
    SEEDS,
    TASKS,
    WHOLE,
    Found,
    Runs,
    of_plan,
)
from benchmarks.methods_steps import steps_table
from benchmarks.names import listed, method_name, sentence, task_name

FULL, QUICK = "full", "quick"
HEAD = ["method", "accuracy: mean (range)", "seeds", "step, ms"]
HEAD += ["of full fine-tuning's", "trained weights", "file, kB"]
HEAD += ["rate (rates tried)"]


def methods(result: dict[str, Any]) -> str:
    """Every method on two tasks: with all texts, then on a short budget."""
    return joined(whole(result), short(result))


def joined(*parts: str) -> str:
    """The parts that there are, as paragraphs."""
    return "\n\n".join(part for part in parts if part)


def whole(result: dict[str, Any]) -> str:
    """The table: all texts."""
    runs = result["runs"]
    return joined(
        "## Methods",
        "The base, its texts, the head, the epochs and the batches are the "
        "same for every method. *Accuracy* is on held-out texts: the mean "
        "of the seeds, and the lowest and highest of them. *Trained weights* "
        "include the head. "
        "*File* is what has to be kept for the task: an adapter, or after "
        "full fine-tuning the whole model. *Rate* is the learning rate "
        "that did best in validation with the first seed, among as many "
        "as the last column says. The *frozen probe* is a logistic "
        "regression on what the base gives; nothing of the base trains. "
        "PiSSA, MiLoRA and EVA are LoRA with another start.",
        timed(result),
        plan_of(result, FULL),
        *(measured(result, FULL, task) for task in TASKS),
        missing(runs, FULL),
    )


def short(result: dict[str, Any]) -> str:
    """The second table: what each method does in a few steps."""
    runs = result["runs"]
    losses = [run["losses"] for run in steps_of(runs, QUICK)]
    if not losses:
        return ""
    below = [
        name
        for name in ORDER
        if all(
            name in found
            and PROBE in found
            and found[name].mean < found[PROBE].mean
            for found in (of_plan(runs, QUICK, task) for task in TASKS)
        )
    ]
    ends = (
        f"{sentence(listed([method_name(name) for name in below]))} end below "
        "the frozen probe on both tasks. "
        if below
        else ""
    )
    return joined(
        "## Methods on a short budget",
        f"The same with few texts: {len(losses[0])} steps. {ends}That "
        "says how quickly each method starts, not where it ends.",
        plan_of(result, QUICK),
        *(measured(result, QUICK, task) for task in TASKS),
        missing(runs, QUICK),
        "The next tables say how soon each method's training loss is as "
        "low as the one with which plain LoRA ends, as a share of all "
        "steps. The loss is a mean of 8 steps; seeds are compared with "
        "equal seeds.",
        *(steps_table(runs, QUICK, task) for task in TASKS),
    )


def steps_of(runs: Runs, plan: str) -> list[Any]:
    """The runs of a plan that trained step by step."""
    return [
        run
        for name, run in runs.items()
        if name.startswith(f"{plan}/") and "losses" in run
    ]


def plan_of(result: dict[str, Any], plan: str) -> str:
    """How much a plan trains, and where it was run."""
    if not any(run.startswith(f"{plan}/") for run in result["runs"]):
        return f"{amount(result, plan)}: not measured yet."
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    machines = result.get("machines") or {plan: result["machine"]}
    option = " --quick" if plan == QUICK else ""
    return (
        f"{amount(result, plan)}. "
        f"`python -m benchmarks.methods{option}` on {machines[plan]}; "
        f"{versions}; backend {result['backend']}."
    )


def timed(result: dict[str, Any]) -> str:
    """How the times of steps were measured."""
    times = result.get("times")
    if not times:
        return ""
    return (
        "*Step* is what a training step takes: the median of "
        f"{times['rounds']} rounds in which all methods took one step on each "
        f"task's batch of the median length ({shapes_of(times)} tokens), "
        "in turn. Beside it is its ratio to full fine-tuning's step of the "
        "same round, with the quartiles. `python -m benchmarks.methods --time` "
        f"on {times['machine']}."
    )


def shapes_of(times: dict[str, Any]) -> str:
    """The rows and tokens of the batches that steps were timed on."""
    shapes = [f"{rows} x {size}" for rows, size in times["shapes"]]
    return " and ".join(dict.fromkeys(shapes))


def amount(result: dict[str, Any], plan: str) -> str:
    """How much a plan trains."""
    known = result["plans"][plan]
    texts = f"{known['texts']} texts" if known["texts"] else "All texts"
    return f"{texts}, {known['epochs']} epochs"


def measured(result: dict[str, Any], plan: str, task: str) -> str:
    """A task's table, and what can be said of it."""
    runs, times = result["runs"], result.get("times", {}).get("methods", {})
    found = of_plan(runs, plan, task)
    if not found:
        return ""
    rows = [row(name, one, times.get(name)) for name, one in found.items()]
    return joined(
        f"**{sentence(task_name(task))}**",
        table(HEAD, rows),
        sizes(runs, plan, task),
        verdict(found),
    )


def row(name: str, found: Found, step: Any) -> list[str]:
    """A method's figures."""
    tests = found.tests
    several = f" ({min(tests):.3f}{SPACE}to{SPACE}{max(tests):.3f})"
    size = found.runs[min(found.runs)].get("file bytes")
    return [
        method_name(name),
        f"{found.mean:.3f}" + (several if len(tests) > 1 else ""),
        str(len(tests)),
        f"{step['milliseconds'][1]:,.0f}" if step else "",
        spread(step["over_full"]) if step and name != WHOLE else "",
        f"{found.weights:,}",
        f"{size / 1e3:,.0f}" if size else "",
        f"{found.rate:g} ({found.tried})" if found.rate else "",
    ]


def missing(runs: Runs, plan: str) -> str:
    """What a plan has not measured yet."""
    absent = {
        task_name(task): [
            method_name(name)
            for name in ORDER
            if name not in of_plan(runs, plan, task)
        ]
        for task in TASKS
    }
    if not any(absent.values()) or not any(
        run.startswith(f"{plan}/") for run in runs
    ):
        return ""
    if len(set(map(tuple, absent.values()))) == 1:
        return f"Not measured yet: {listed(next(iter(absent.values())))}."
    said = [
        f"on {task}: {listed(names)}" for task, names in absent.items() if names
    ]
    return f"Not measured yet {'; '.join(said)}."


def sizes(runs: Runs, plan: str, task: str) -> str:
    """What the base's weights take in memory, as they are and quantized."""
    lead = f"{plan}/{task}/"
    found = {
        run.split("/")[2]: [size / 1e6 for size in result["base bytes"]]
        for run, result in runs.items()
        if run.startswith(lead) and "base bytes" in result
    }
    smaller = "".join(
        f", {after:.1f} MB for *{method_name(name)}*"
        for name, (before, after) in found.items()
        if after < before
    )
    if not smaller:
        return ""
    plain = next(iter(found.values()))[0]
    return f"The base's weights take {plain:.1f} MB{smaller}."


def verdict(found: dict[str, Found]) -> str:
    """Which methods did better than plain LoRA, by more than seeds differ."""
    whole = {
        name: one.tests
        for name, one in found.items()
        if len(one.tests) == len(SEEDS)
    }
    plain, probe = whole.pop(PLAIN, None), found.get(PROBE)
    if plain is None or probe is None:
        return ""
    said = {
        "above plain LoRA at every seed": [
            name for name, tests in whole.items() if min(tests) > max(plain)
        ],
        "below it at every seed": [
            name for name, tests in whole.items() if max(tests) < min(plain)
        ],
        "below the frozen probe on average": [
            name for name, tests in whole.items() if np.mean(tests) < probe.mean
        ],
    }
    words = [
        f"- {what}: {', '.join(map(method_name, names)) or 'none'}"
        for what, names in said.items()
    ]
    return "\n".join(["Of those with three seeds:", "", *words])
