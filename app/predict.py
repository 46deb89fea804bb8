"""`python -m app.predict TASK TEXT...`: labels texts by a saved adapter."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.texts.fetch import FetchError
from app.texts.tasks import TASKS, Task, get_task

if TYPE_CHECKING:
    import keras

    from app.texts.base import Tokenizer


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
        prog="python -m app.predict",
        description="Labels texts by an adapter that app.train saved.",
    )
    parser.add_argument("task", help=f"one of: {', '.join(TASKS)}")
    parser.add_argument("texts", nargs="+", metavar="text")
    parser.add_argument(
        "--adapter", type=Path, help="default: adapters/TASK.safetensors"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a text, probabilities in full precision",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Predicts, and prints a label and its probability for each text."""
    task = get_task(options.task)
    path = options.adapter or Path("adapters") / f"{task.name}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"There is no adapter file {path}. "
            f"`python -m app.train {task.name}` makes one."
        )
    import keras_lora
    from app.texts.base import Tokenizer
    from keras_lora.serve.answers import gives_shares

    model = load_adapted(path, task)
    shares = gives_shares(keras_lora.inspect_adapter(path), None)
    if shares is None:
        raise ValueError(
            f"{path}: whether its outputs are probabilities cannot be told"
        )
    found = probabilities(model, Tokenizer(), options.texts, shares)
    for text, row in zip(options.texts, found, strict=True):
        print(
            as_json(task, text, row) if options.json else line(task, text, row)
        )


def load_adapted(path: Path, task: Task) -> "keras.Model":
    """The base with a file's adapter and head.

    Raises:
        ValueError: the file is none of this base's, or none of this task's.
    """
    import keras

    import keras_lora
    from app.texts.base import load_base

    info = keras_lora.inspect_adapter(path)
    base = load_base()
    keras_lora.load_adapter(base, path, head=False)
    model = keras.Model(base.input, info.build_head()(base.output))
    classes = model.output_shape[-1]
    if classes != len(task.labels):
        raise ValueError(
            f"{path} tells {classes} classes apart, "
            f"{task.name} has {len(task.labels)}."
        )
    return model


def probabilities(
    model: "keras.Model",
    tokenizer: "Tokenizer",
    texts: Sequence[str],
    shares: bool = False,
) -> np.ndarray:
    """Probability of each label, (texts, labels).

    `shares` tells whether the model's outputs are probabilities already.
    """
    from app.learn.batches import predict_texts
    from app.serve.served import softmax

    found = predict_texts(model, texts, tokenizer).astype("float64")
    return found if shares else softmax(found)


def line(task: Task, text: str, row: np.ndarray) -> str:
    """A prediction for people, the likeliest label first."""
    ranked = sorted(zip(row, task.labels, strict=True), reverse=True)
    shares = ", ".join(f"{label} {share:.1%}" for share, label in ranked)
    return f"{ranked[0][1]}  ({shares})  {text}"


def as_json(task: Task, text: str, row: np.ndarray) -> str:
    """A prediction for programs."""
    shares = dict(zip(task.labels, map(float, row), strict=True))
    label = task.labels[int(np.argmax(row))]
    return json.dumps(
        {"text": text, "label": label, "probabilities": shares},
        ensure_ascii=False,
    )


if __name__ == "__main__":
    sys.exit(main())
