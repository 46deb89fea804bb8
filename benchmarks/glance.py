"""The pictures on top of the page, with what they say in a sentence or two."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.markdown import ASSETS
from benchmarks.methods_runs import (
    PLAIN,
    PROBE,
    TASKS,
    WHOLE,
    Found,
    Runs,
    of_plan,
)
from benchmarks.methods_table import FULL, QUICK, amount, shapes_of
from benchmarks.names import listed, method_name, short_name, task_name
from benchmarks.scatter import Spot, scatter

BOTTLENECKS = ("pfeiffer", "houlsby", "parallel")
COLORS = {
    PROBE: plots.GREY,
    WHOLE: plots.FULL,
    **dict.fromkeys(BOTTLENECKS, plots.BOTTLENECKS),
}
FLOOR = "activation floor"

Both = dict[str, list[Found]]
"""What a method did on each task."""


def on_all_tasks(runs: Runs, plan: str) -> Both:
    """The methods that were run on every task."""
    tasks = [of_plan(runs, plan, task) for task in TASKS]
    return {
        name: [found[name] for found in tasks]
        for name in tasks[0]
        if all(name in found for found in tasks)
    }


def mean(found: list[Found], of: Callable[[Found], float]) -> float:
    """The mean of the tasks."""
    return float(np.mean([of(one) for one in found]))


def accuracy(result: dict[str, Any]) -> str:
    """Accuracy against time and against trained weights, by method."""
    needed, plan = (PROBE, WHOLE, PLAIN), FULL
    found = on_all_tasks(result["runs"], plan)
    if not all(name in found for name in needed):
        plan, found = QUICK, on_all_tasks(result["runs"], QUICK)
    if not all(name in found for name in needed):
        return ""
    times = result.get("times", {}).get("methods", {})
    steps = {name: step["milliseconds"][1] for name, step in times.items()}
    weights = {name: both[0].weights for name, both in found.items()}
    for stem, title, sizes, log in (
        ("methods-time", "milliseconds of a training step", steps, False),
        ("methods-weights", "trained weights", weights, True),
    ):
        spots = [
            spot(name, both, sizes[name])
            for name, both in found.items()
            if name in sizes
        ]
        if spots:
            scatter(spots, title, ASSETS / f"{stem}.svg", log=log)
    tasks = " and ".join(map(task_name, TASKS))
    return "\n\n".join(
        [
            "## Accuracy against time and weights",
            conclusion(found, amount(result, plan)) + step_said(result),
            "![Accuracy of each method against the time of a training "
            "step](assets/methods-time.svg) ![Accuracy of each method "
            "against the number of weights it trains]"
            "(assets/methods-weights.svg)",
            f"Means of two tasks, {tasks}; a line goes from the lowest to the "
            "highest seed. Orange is full fine-tuning, green are bottlenecks, "
            "grey is the frozen base with a probe.",
        ]
    )


def step_said(result: dict[str, Any]) -> str:
    """What a step of plain LoRA takes beside one of full fine-tuning."""
    times = result.get("times")
    if not times:
        return ""
    share = times["methods"][PLAIN]["over_full"][1]
    return (
        f" Its step takes {share:.2f} of the time of full fine-tuning's, on "
        f"batches of {shapes_of(times)} tokens."
    )


def spot(name: str, both: list[Found], size: float) -> Spot:
    """A method's point: the mean of the tasks, and the range of the seeds."""
    seeds = set.intersection(*(set(one.runs) for one in both))
    tests = [
        np.mean([one.runs[seed]["test"] for one in both]) for seed in seeds
    ]
    return Spot(
        name=short_name(name),
        x=size,
        low=float(min(tests)),
        y=mean(both, lambda one: one.mean),
        high=float(max(tests)),
        color=COLORS.get(name, plots.OURS),
    )


def conclusion(found: Both, budget: str) -> str:
    """Plain LoRA beside full fine-tuning, the probe and all others."""
    means = {
        name: mean(both, lambda one: one.mean) for name, both in found.items()
    }
    weights = found[PLAIN][0].weights / found[WHOLE][0].weights
    others = {
        name: 100 * (one - means[PLAIN])
        for name, one in means.items()
        if name not in (PROBE, WHOLE, PLAIN)
    }
    near = sum(abs(points) <= 1 for points in others.values())
    said = f"of {len(others)} other methods {near} end within a point of LoRA"
    if near and max(others.values()) > 0:
        best = max(others, key=others.__getitem__)
        said += f", {method_name(best)} {others[best]:.1f} points above it"
    return (
        f"{budget}: LoRA ends at {means[PLAIN]:.3f}, full fine-tuning at "
        f"{means[WHOLE]:.3f} and a probe on the frozen base at "
        f"{means[PROBE]:.3f}; {said}. LoRA trains {weights:.1%} of the weights."
    )


def once(result: dict[str, Any]) -> str:
    """A ladder on features that are computed once, beside LoRA."""
    sides = {
        task: (rows["LoRA, all blocks"], rows["a ladder"])
        for task, rows in result["tasks"].items()
    }
    ratios = [ladder["job_over_all"][1] for _, ladder in sides.values()]
    points = [
        points_of(np.mean(ladder["accuracy"]) - np.mean(lora["accuracy"]))
        + f" on {task_name(task)}"
        for task, (lora, ladder) in sides.items()
    ]
    return (
        "Where the frozen part runs once, less is enough: a ladder trained on "
        f"its features takes {min(ratios):.2f} to {max(ratios):.2f} of LoRA's "
        f"time from texts to file. Its accuracy is {listed(points)} "
        "([figures](#what-is-computed-once))."
    )


def points_of(difference: Any) -> str:
    """A difference of accuracies in words."""
    points = 100 * float(difference)
    if abs(points) < 0.05:
        return "the same"
    return f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}"


def step(result: dict[str, Any]) -> str:
    """A training step of each side."""
    sides = result["sides"]
    plots.step(sides, ASSETS / "train-step.svg")
    ratio = {s: row["keras_lora_over_it"][1] for s, row in sides.items()}
    return "\n\n".join(
        [
            "## The time of a training step",
            "A step of keras_lora takes "
            f"{ratio['enable_lora']:.2f} of the time of Keras's `enable_lora` "
            f"and {ratio['full fine-tuning']:.2f} of that of full "
            f"fine-tuning. It is {ratio[FLOOR]:.2f} times the floor, below "
            "which no method that adapts early layers can go.",
            "![Milliseconds of a training step of each "
            "side](assets/train-step.svg)",
        ]
    )


def serving(result: dict[str, Any]) -> str:
    """A mixed batch against the base's."""
    rows = result["adapters"]
    ratios = [row["mixed_over_base"][1] for row in rows.values()]
    first, last = list(rows)[0], list(rows)[-1]
    plots.serving(result, ASSETS / "serving.svg")
    return "\n\n".join(
        [
            "## The time of a mixed batch",
            "A batch in which every row has its own adapter takes "
            f"{min(ratios):.2f} to {max(ratios):.2f} times as long as a batch "
            f"of the base alone, with {first} to {last} adapters in the bank.",
            "![Time of a mixed batch over the base's against the number of "
            "adapters](assets/serving.svg)",
        ]
    )
