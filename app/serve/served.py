"""What the demo knows of one adapter it serves: labels, probe, figures."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import keras_lora
from app.learn.shipped import PROBES, RESULTS, SHIPPED
from app.serve.limits import inner_sizes
from app.serve.messages import message_of
from app.texts.data import Splits
from app.texts.tasks import Task, get_task
from keras_lora.files import AdapterInfo
from keras_lora.serve.answers import Prediction, gives_shares

SHIP = "python -m app.ship"
"""The command that makes the adapters' files."""


@dataclass(frozen=True)
class Probe:
    """A linear classifier on the frozen base's features."""

    kernel: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        return softmax(features @ self.kernel + self.bias)


@dataclass(frozen=True)
class Served:
    """One adapter behind the bank.

    Args:
        name: what the bank calls it.
        title: what people read.
        labels: one for each class, in the order of the head's outputs.
        file: where it lies.
        info: its header.
        question: one line on what it decides.
        examples: texts to try.
        probe: the frozen base's own classifier for this task, if there is one.
        results: what its training came to, as `results.json` has it; of a
            visitor's own training also how many texts were held out.
        splits: the texts that a visitor's own training learned from.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    file: Path
    info: AdapterInfo
    question: str = ""
    examples: tuple[str, ...] = ()
    probe: Probe | None = None
    results: dict[str, Any] = field(default_factory=dict)
    splits: Splits | None = None

    @property
    def gives_shares(self) -> bool | None:
        """Whether the head's outputs are probabilities already.

        None where it cannot be told; nothing is served then.
        """
        return gives_shares(self.info, None)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """A probability for each label, as `keras-lora serve` gives it.

        `outputs` are the head's, for one text.
        """
        info = replace(self.info, labels=self.labels)
        return Prediction(outputs, info, self.gives_shares).probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def title_of(name: str) -> str:
    """A task's name for people: "movie-sentiment" -> "Movie sentiment"."""
    return name.replace("-", " ").capitalize()


@dataclass(frozen=True)
class Shipped:
    """The tasks whose files lie in a folder, and what is wrong with others."""

    tasks: tuple[Served, ...]
    problems: dict[str, str]


def read_shipped(folder: Path) -> Shipped:
    """Reads the headers of a folder's adapters, their probes and results.

    A task without a file, or with one that cannot be read, is no error: its
    problem is kept to be shown.
    """
    results = _read_results(folder / RESULTS)
    found, problems = [], {}
    for task in map(get_task, SHIPPED):
        try:
            found.append(_read_task(folder, task, results.get(task.name)))
        except ValueError as error:
            problems[task.name] = message_of(error)
    return Shipped(tuple(found), problems)


def _read_task(folder: Path, task: Task, results: Any) -> Served:
    file = folder / f"{task.name}.safetensors"
    if not file.is_file():
        raise ValueError(
            f"There is no adapter for {task.name} yet; "
            f"“{SHIP} {task.name}” makes it."
        )
    info = keras_lora.inspect_adapter(file)
    labels = info.labels or task.labels
    return Served(
        name=task.name,
        title=title_of(task.name),
        labels=labels,
        file=file,
        info=info,
        question=info.about or task.title,
        examples=task.examples,
        probe=_read_probe(
            folder / PROBES / f"{task.name}.safetensors", len(labels)
        ),
        results=results if isinstance(results, dict) else {},
    )


def _read_probe(file: Path, classes: int) -> Probe | None:
    """A probe's file; None where there is none that fits the task."""
    try:
        tensors = load_file(file)
        kernel, bias = tensors["kernel"], tensors["bias"]
    except Exception:  # safetensors raises a class of its own for bad files
        return None
    if kernel.ndim != 2 or kernel.shape[1] != classes != 0:
        return None
    return Probe(kernel, bias) if bias.shape == (classes,) else None


def _read_results(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def size_label(info: Any) -> str:
    """The rank or width of an adapter, for people."""
    parts = []
    names = ("rank", "width", "width")
    for name, sizes in zip(names, inner_sizes(info), strict=True):
        if sizes:
            ends = sorted({min(sizes), max(sizes)})
            parts.append(f"{name} {' to '.join(map(str, ends))}")
    return ", ".join(parts)


def methods_label(info: Any) -> str:
    """The methods of an adapter, for people."""
    names = {"lora": "LoRA", "bottleneck": "bottleneck", "side": "ladder"}
    return " and ".join(names.get(method, method) for method in info.methods)
