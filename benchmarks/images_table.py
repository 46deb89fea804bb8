"""The table of adapters on a vision base."""

from collections.abc import Collection
from typing import Any

import numpy as np

from benchmarks.computed_once_table import of_seeds
from benchmarks.markdown import table, where

WANTED = (
    "frozen probe",
    "full fine-tuning",
    "LoRA",
    "LoRA, last 4 blocks",
    "bottlenecks",
    "full fine-tuning, BatchNorm trains",
)


def key(name: str, rate: float, seed: int) -> str:
    """What a run is called in the result file."""
    return f"{name}/{rate:g}/{seed}"


def runs_of(runs: dict[str, Any], name: str) -> dict[float, dict[int, Any]]:
    """A side's runs, by rate and seed."""
    found: dict[float, dict[int, Any]] = {}
    for run, result in runs.items():
        side, *rest = run.split("/")
        if side == name and rest:
            found.setdefault(float(rest[0]), {})[int(rest[1])] = result
    return found


def best_rate(runs: dict[str, Any], name: str) -> float:
    """The rate that does best in validation at seed 0, the lowest of equals."""
    found = runs_of(runs, name)
    first = {rate: seeds[0] for rate, seeds in found.items() if 0 in seeds}
    return max(sorted(first), key=lambda rate: first[rate]["validation"])


def row_of(runs: dict[str, Any], name: str) -> list[str]:
    """A side's row."""
    if name in runs:
        only = runs[name]
        return [
            name,
            "",
            f"{only['test']:.3f}",
            f"{only['parameters']:,}",
            "",
            f"{only['seconds']:.0f}",
            "",
        ]
    rate = best_rate(runs, name)
    own = list(runs_of(runs, name)[rate].values())
    epochs = [seconds for run in own for seconds in run["epoch seconds"]]
    return [
        name,
        f"{rate:g}",
        of_seeds([run["test"] for run in own]),
        f"{own[0]['parameters']:,}",
        f"{own[0]['file bytes'] / 1e3:,.0f}",
        f"{np.median([run['seconds'] for run in own]):.0f}",
        f"{np.median(epochs):.1f}",
    ]


def images(result: dict[str, Any]) -> str:
    """Adapters on convolutions against a probe and full fine-tuning."""
    runs, settings = result["runs"], result["settings"]
    found = {run.split("/")[0] for run in runs}
    names = [name for name in WANTED if name in found]
    head = ["what trains", "rate", "accuracy", "trained weights", "file, kB"]
    head += ["`fit`, s", "later epochs, s"]
    return "\n\n".join(
        [
            "## Images",
            "EfficientNet-Lite0 on "
            f"{settings['train']:,} images of Fashion-MNIST, enlarged to "
            f"{settings['pixels']} x {settings['pixels']}; accuracy is on "
            f"{settings['test']:,} of its test images. LoRA (rank 8) is on "
            "the pointwise convolutions, of all blocks or, by `split` and "
            "`precompute`, of the last four; bottlenecks (16 wide) are on the "
            "output of each block. In all rows but that of *BatchNorm trains* "
            "the norms keep their weights, and use the pretrained mean and "
            "variance in training too. "
            "The rate is the best of three in validation, at seed 0. `fit` is "
            "with tracing and what is computed once, for the probe with its "
            "features; medians of the seeds.",
            where(result, "python -m benchmarks.images"),
            "<!-- --8<-- [start:images] -->",
            table(head, [row_of(runs, name) for name in names]),
            *missing(names),
            "<!-- --8<-- [end:images] -->",
            moved(runs),
        ]
    )


def missing(names: Collection[str]) -> list[str]:
    """Says which sides have no run, if any."""
    left = [f"*{name}*" for name in WANTED if name not in names]
    return [f"Not measured yet: {', '.join(left)}."] if left else []


def moved(runs: dict[str, Any]) -> str:
    """In which runs the base's weights were others afterwards."""
    told = {n: run["base moved"] for n, run in runs.items() if "/" in n}
    ways = dict.fromkeys(run.split("/")[0] for run in told)
    still = [
        name
        for name in ways
        if not any(told[n] for n in told if n.startswith(f"{name}/"))
    ]
    count = sum(run.split("/")[0] in still for run in told)
    return (
        f"After the {count} runs of {', '.join(f'*{name}*' for name in still)} "
        "and `eject`, each weight of the base, the norms' statistics "
        "included, had the bits that it began with."
    )
