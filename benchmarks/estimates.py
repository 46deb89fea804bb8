"""The time that the demo foretells of a training, beside what it takes.

Trains as a visitor of the demo would, on the real base: on tasks' texts, by
each method, with few and many texts. Each is foretold twice: by a server that
has trained nothing yet, from the base's forward pass; and from the warm steps
of the run of that method before it.

    python -m benchmarks.estimates [--json FILE]

Nothing else must run meanwhile.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras

from app.learn import estimate
from app.learn.training import Settings
from app.serve.job import Job
from app.serve.service import REAL, Service
from app.serve.trainer import Trainer, smaller
from app.texts.tasks import get_task
from benchmarks.train_step import machine, versions

RUNS = (
    ("tweet-sentiment", "lora", 100, 2),
    ("tweet-sentiment", "lora", 1000, 2),
    ("product-sentiment", "bottleneck", 100, 2),
    ("tweet-sentiment", "side", 1000, 2),
    ("product-sentiment", "bottleneck", 1000, 2),
    ("tweet-sentiment", "side", 100, 2),
    ("movie-sentiment", "lora", 300, 5),
)
"""Task, method, training texts and epochs of each run."""


def foretold(speeds: estimate.Speeds, tokens: float, job: Job) -> float:
    """Seconds, as the page tells them."""
    held_out = len(job.splits.validation) + len(job.splits.test)
    train, epochs = len(job.splits.train), job.settings.epochs or 1
    return estimate.training_seconds(speeds, tokens, train, held_out, epochs)


def measure(service: Service, trainer: Trainer, job: Job) -> dict[str, Any]:
    """What is foretold of one run, and what it takes."""
    rows = service.tokenizer.encode(job.splits.train.texts[:500])
    tokens = sum(map(len, rows)) / len(rows)
    learned = trainer.speeds.get(job.settings.method)
    known = foretold(learned, tokens, job) if learned else None
    start = time.perf_counter()
    run = trainer.start(job)
    run.done.wait()
    seconds = time.perf_counter() - start
    if run.error:
        raise RuntimeError(run.error)
    return {
        "task": job.title,
        "method": job.settings.method,
        "texts": len(job.splits.train),
        "epochs": job.settings.epochs,
        "at first": foretold(
            service.speeds.of(job.settings.method), tokens, job
        ),
        "from the last run": known,
        "seconds": seconds,
        "fit": run.outcome.seconds if run.outcome else None,
        "first_step": run.pace.steps[0],
        "warm_step": run.pace.warm_step,
        "validations": run.pace.validations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, help="the first of them alone")
    options = parser.parse_args()
    service, trainer = Service.start(REAL), Trainer(REAL)
    rows = []
    for name, method, texts, epochs in RUNS[: options.runs]:
        task = get_task(name)
        settings = Settings(epochs=epochs, method=method)
        splits = smaller(task.load(), texts)
        job = Job(task.name, task.labels, splits, settings)
        rows.append(measure(service, trainer, job))
        print(json.dumps(rows[-1]), flush=True)
        if options.json:
            result = {
                "speeds": vars(service.speeds),
                "runs": rows,
                "backend": keras.backend.backend(),
                "settings": {"batch": Settings().batch_size},
                "machine": machine(),
                "versions": versions(),
            }
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
