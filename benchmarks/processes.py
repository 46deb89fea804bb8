"""Sides of a comparison that run in processes of their own."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np


def printed(
    module: str,
    own: Mapping[str, Any],
    options: argparse.Namespace,
    names: Iterable[str],
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What a new process of a benchmark prints last, as JSON.

    Args:
        module: The benchmark's name in this folder.
        own: Options that this process has for itself.
        options: What the benchmark was started with.
        names: Of the options that are handed on.
        environment: Variables that are set besides.
    """
    values = {**own, **{name: getattr(options, name) for name in names}}
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    for name, value in values.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])


def by_turns(
    sides: Iterable[Any], rounds: int, run: Callable[[Any], list[float]]
) -> dict[Any, np.ndarray]:
    """The figures of each side, one row for each round.

    Args:
        sides: They run one after the other in each round.
        rounds: How often.
        run: Gives a side's figures.
    """
    found: dict[Any, list[list[float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, rows in found.items():
            rows.append(run(side))
            print(number + 1, side, *rows[-1], flush=True)
    return {side: np.array(rows) for side, rows in found.items()}
