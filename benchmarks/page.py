"""Writes `docs/benchmarks.md` and its plots from the committed results.

    python -m benchmarks.page

Every figure on the page comes from a JSON file in `benchmarks/results`.
"""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.all_tasks_table import all_tasks
from benchmarks.computed_once_table import computed_once
from benchmarks.doors_table import doors, inference
from benchmarks.generation_table import generation
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
PAGE = ROOT / "docs/benchmarks.md"

HEAD = """# Benchmarks

Made by `python -m benchmarks.page` from the result files in
`benchmarks/results`. Sides of a comparison take turns in one run, so that a
noisy machine slows them alike; a ratio is the median of the rounds', with its
quartiles in brackets. `python -m benchmarks` measures everything again.
"""


SECTIONS: dict[str, Callable[[Any], str]] = {
    "app/adapters/results.json": tasks,
    "benchmarks/results/methods.json": methods,
    "benchmarks/results/computed_once.json": computed_once,
    "benchmarks/results/all_tasks.json": all_tasks,
    "benchmarks/results/rematerialization.json": rematerialization,
    "benchmarks/results/bank_on_tasks.json": bank_on_tasks,
    "benchmarks/results/train_step.json": train_step,
    "benchmarks/results/scaling.json": scaling,
    "benchmarks/results/rewriting.json": rewriting,
    "benchmarks/results/inference.json": inference,
    "benchmarks/results/doors.json": doors,
    "benchmarks/results/serving.json": serving,
    "benchmarks/results/generation.json": generation,
    "benchmarks/results/server.json": server,
    "benchmarks/results/hostile_clients.json": hostile,
    "benchmarks/results/peft_exchange.json": peft_exchange,
    "benchmarks/results/peft_loading.json": peft_loading,
    "benchmarks/results/perplexity.json": perplexity,
    "benchmarks/results/language_memory.json": language_memory,
    "benchmarks/results/soak.json": soak,
    "benchmarks/results/two_sessions.json": two_sessions,
    "benchmarks/results/leaks.json": leaks,
    "benchmarks/results/fuzz.json": fuzz,
}
"""Where each section's figures are; one without its file is left out."""


def page() -> str:
    """The whole page; plots are written on the way."""
    parts = [HEAD.strip()]
    for name, section in SECTIONS.items():
        path = ROOT / name
        if path.is_file():
            parts.append(section(json.loads(path.read_text("utf-8"))))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
