"""`python -m app.ship [TASK...]`: makes the adapters that come with the demo.

For each task it writes into `app/adapters/`:

- `TASK.safetensors`, the trained adapter with its head;
- `probes/TASK.safetensors`, the baseline on the frozen base's features:
  `kernel` (features, classes) and `bias` (classes,), logits of the classes;
- what came out, into `results.json`.

All is seeded. Two runs on one machine give like adapters, not equal bytes:
threads add numbers up in no fixed order.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.learn.shipped import METHODS, PROBES, RESULTS, SHIPPED
from app.texts.fetch import FetchError
from app.texts.tasks import TASKS, Task, get_task

FOLDER = Path(__file__).parent / "adapters"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app.ship",
        description="Trains the adapters that come with the demo.",
    )
    parser.add_argument(
        "tasks", nargs="*", metavar="task", help=f"of: {', '.join(SHIPPED)}"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    try:
        for task in [get_task(name) for name in options.tasks or SHIPPED]:
            ship(task, options.folder)
    except (FetchError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def ship(task: Task, folder: Path) -> None:
    """Trains one task's adapter and writes its files."""
    from safetensors.numpy import save_file

    from app.learn.training import Settings, train_task

    settings = Settings(method=METHODS.get(task.name, "lora"))
    result = train_task(
        task,
        settings,
        output=folder / f"{task.name}.safetensors",
        report=lambda line: print(line, flush=True),
        verbose=2,
    )
    probe = {"kernel": result.probe.kernel, "bias": result.probe.bias}
    (folder / PROBES).mkdir(exist_ok=True)
    save_file(probe, folder / PROBES / f"{task.name}.safetensors")
    row = {
        **{
            name: getattr(result, name)
            for name in (
                "accuracy",
                "baselines",
                "trainable",
                "share",
                "seconds",
                "bytes",
            )
        },
        "settings": {
            **dataclasses.asdict(settings),
            "epochs": settings.epochs or task.epochs,
        },
        "made_with": versions(),
    }
    write_result(folder / RESULTS, task.name, row)
    print(f"{task.name}: {result.accuracy:.3f}, {result.seconds:.0f} s")


def versions() -> dict[str, Any]:
    """What a result depends on besides the code."""
    import keras

    return {
        "python": platform.python_version(),
        "keras": keras.version(),
        "backend": keras.backend.backend(),
        "cores": os.cpu_count(),
    }


def write_result(path: Path, name: str, row: dict[str, Any]) -> None:
    """Puts one task's row among the others'; the file is replaced whole."""
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows[name] = row
    ordered = {task: rows[task] for task in TASKS if task in rows}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
