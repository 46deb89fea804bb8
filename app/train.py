"""`python -m app.train TASK`: trains a task's adapter and saves it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from app.texts.fetch import FetchError
from app.texts.tasks import TASKS, get_task


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except (FetchError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m app.train",
        description="Trains a task's adapter on MiniLM and saves it.",
    )
    parser.add_argument("task", help=f"one of: {', '.join(TASKS)}")
    parser.add_argument("--epochs", type=int, help="default: the task's own")
    parser.add_argument("--rank", type=int)
    parser.add_argument(
        "--targets",
        type=target_names,
        help='layer names separated by commas, or "all-linear" (the default)',
    )
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--output",
        type=Path,
        help="default: adapters/TASK.safetensors",
    )
    return parser


def target_names(text: str) -> str | list[str]:
    """`--targets`, as `LoRAConfig` takes it."""
    return text if text == "all-linear" else text.split(",")


def run(options: argparse.Namespace) -> None:
    """Trains, and prints what comes out."""
    task = get_task(options.task)
    # Imported late, so that a mistyped task is told at once.
    from app.learn.training import Settings, train_task

    given = {
        name: value
        for name in ("epochs", "rank", "targets", "learning_rate", "seed")
        if (value := getattr(options, name)) is not None
    }
    result = train_task(
        task,
        Settings(**given),
        output=options.output,
        report=lambda line: print(line, flush=True),
        verbose="auto",
    )
    print(f"accuracy on held-out texts: {result.accuracy:.3f}")
    gain = 100 * (result.accuracy - result.probe.accuracy)
    print(f"over the frozen features: {gain:+.1f} points")
    print(f"training took {result.seconds:.0f} s")
    print(f"saved {result.path} ({result.bytes / 1e3:,.0f} kB)")


if __name__ == "__main__":
    sys.exit(main())
