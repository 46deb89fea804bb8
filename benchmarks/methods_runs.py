"""The runs of `benchmarks.methods`, by method."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Runs = dict[str, Any]
"""Results by `plan/task/method/rate/seed`; probes by `plan/task/method`."""
TASKS = ("tweet-sentiment", "product-sentiment")
SEEDS = (0, 1, 2)
PROBE, WHOLE, PLAIN = "frozen probe", "full fine-tuning", "lora"
ORDER = (
    PROBE,
    WHOLE,
    PLAIN,
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
    "ladder",
    "lora, last 2 blocks",
    "lora on int8",
    "lora on int4",
)


@dataclass(frozen=True)
class Found:
    """What a method did on a task, at the rate that is best in validation.

    Attributes:
        rate: Of learning; None for the probe.
        tried: How many rates were tried.
        runs: At that rate, by seed.
    """

    rate: float | None
    tried: int
    runs: dict[int, Any]

    @property
    def tests(self) -> list[float]:
        """The accuracy on held-out texts of each seed."""
        return [run["test"] for run in self.runs.values()]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.tests))

    @property
    def weights(self) -> int:
        """How many are trained."""
        return int(self.runs[min(self.runs)]["parameters"])


def of_method(runs: Runs, plan: str, task: str, name: str) -> Found | None:
    """What a method did on a task, if it was run there with the first seed."""
    if name == PROBE:
        probe = runs.get(f"{plan}/{task}/{name}")
        return Found(None, 0, {0: probe}) if probe else None
    found: dict[float, dict[int, Any]] = {}
    lead = f"{plan}/{task}/{name}/"
    for run, result in runs.items():
        if run.startswith(lead):
            rate, seed = run.removeprefix(lead).split("/")
            found.setdefault(float(rate), {})[int(seed)] = result
    first = {rate: seeds[0] for rate, seeds in found.items() if 0 in seeds}
    if not first:
        return None
    best = max(sorted(first), key=lambda rate: first[rate]["validation"])
    return Found(best, len(first), dict(sorted(found[best].items())))


def of_plan(runs: Runs, plan: str, task: str) -> dict[str, Found]:
    """Every method that was run on a task, in the order of the tables."""
    return {
        name: found
        for name in ORDER
        if (found := of_method(runs, plan, task, name))
    }
