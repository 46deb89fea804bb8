"""Writes the pages of results and their plots from the committed results.

    python -m benchmarks.page

Every figure in them comes from a JSON file, most of them in
`benchmarks/results`. A new section is one more line in `PAGES`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import glance
from benchmarks.all_tasks_table import all_tasks
from benchmarks.computed_once_table import computed_once
from benchmarks.doors_table import doors, inference
from benchmarks.estimates_table import estimates
from benchmarks.first_step_table import first_step
from benchmarks.generation_table import generation
from benchmarks.hyper_parameters_table import hyper_parameters
from benchmarks.images_table import images
from benchmarks.language_table import language_memory, perplexity
from benchmarks.markdown import ROOT
from benchmarks.methods_table import methods
from benchmarks.peft_table import peft_exchange, peft_loading
from benchmarks.rematerialization_table import rematerialization
from benchmarks.robustness_table import fuzz, leaks, soak, two_sessions
from benchmarks.server_table import hostile, server
from benchmarks.serving_table import serving
from benchmarks.step_table import rewriting, scaling, train_step
from benchmarks.tasks_table import bank_on_tasks, tasks

RESULTS = ROOT / "benchmarks/results"
ADAPTERS = "app/adapters/results.json"


@dataclass(frozen=True)
class Group:
    """Sections under one heading.

    Attributes:
        title: The heading.
        sections: What makes each section, with the name of its result in
            `benchmarks/results`, or the path of its file. A section without
            its file is left out.
    """

    title: str
    sections: tuple[tuple[str, Callable[[Any], str]], ...]


@dataclass(frozen=True)
class Page:
    """A page in `docs`: what is on top, and groups of sections."""

    head: str
    groups: tuple[Group, ...]


BENCHMARKS = Page(
    """# Benchmarks

What keras_lora costs and what it gains, measured on two CPU cores. The
pictures come first, and all figures are in the tables below. A page of its
own has [long runs and hostile inputs](robustness.md).

The sides of a comparison take turns in one run, so that a noisy machine slows
them alike. A figure with two in brackets is the median of the rounds with its
quartiles, and a ratio is the median of the rounds' ratios. A line under each
table's heading names the script that measured it, with the machine, versions
and settings. `python -m benchmarks` measures everything again, and
`python -m benchmarks.page` writes this page.""",
    (
        Group(
            "At a glance",
            (
                ("methods", glance.accuracy),
                ("computed_once", glance.once),
                ("train_step", glance.step),
                ("serving", glance.serving),
            ),
        ),
        Group(
            "Accuracy",
            (
                (ADAPTERS, tasks),
                ("methods", methods),
                ("hyper_parameters", hyper_parameters),
                ("images", images),
            ),
        ),
        Group(
            "Training",
            (
                ("train_step", train_step),
                ("scaling", scaling),
                ("computed_once", computed_once),
                ("rematerialization", rematerialization),
                ("first_step", first_step),
            ),
        ),
        Group(
            "Serving",
            (
                ("inference", inference),
                ("serving", serving),
                ("bank_on_tasks", bank_on_tasks),
                ("all_tasks", all_tasks),
                ("server", server),
                ("two_sessions", two_sessions),
                ("estimates", estimates),
            ),
        ),
        Group(
            "Language models",
            (
                ("generation", generation),
                ("perplexity", perplexity),
                ("language_memory", language_memory),
            ),
        ),
        Group(
            "Models and files",
            (
                ("doors", doors),
                ("rewriting", rewriting),
                ("peft_exchange", peft_exchange),
                ("peft_loading", peft_loading),
            ),
        ),
    ),
)
ROBUSTNESS = Page(
    """# Long runs and hostile inputs

What came of running for long, of many threads at once, and of files and
clients that mean harm. What is promised about them is in
[Adapter files from strangers](explanation/safety.md). `python -m benchmarks`
runs all of it again, and `python -m benchmarks.page` writes this page.""",
    (
        Group("Long runs", (("soak", soak), ("leaks", leaks))),
        Group("Hostile inputs", (("fuzz", fuzz), ("hostile_clients", hostile))),
    ),
)
PAGES = {
    ROOT / "docs/benchmarks.md": BENCHMARKS,
    ROOT / "docs/robustness.md": ROBUSTNESS,
}


def written(page: Page) -> str:
    """The text of a page; its plots are written on the way."""
    parts = [page.head]
    for group in page.groups:
        found = [
            section(json.loads(file.read_text("utf-8")))
            for name, section in group.sections
            if (file := file_of(name)).is_file()
        ]
        if any(found):
            parts += [
                f"## {group.title}",
                *map(under_a_group, filter(None, found)),
            ]
    return "\n\n".join(parts) + "\n"


def file_of(name: str) -> Path:
    """The file of a result."""
    short = f"benchmarks/results/{name}.json"
    return ROOT / (name if name.endswith(".json") else short)


def under_a_group(section: str) -> str:
    """A section whose headings are one level lower."""
    return "\n".join(
        f"#{line}" if line.startswith("## ") else line
        for line in section.split("\n")
    )


def main() -> None:
    """Writes the pages."""
    for path, page in PAGES.items():
        path.write_text(written(page), "utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
