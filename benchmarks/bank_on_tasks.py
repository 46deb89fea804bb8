"""Trained adapters served together from one bank, against each by itself.

Takes every task's adapter in a folder, as `python -m app.train TASK` and
`python -m app.ship` save them. Their test texts are mixed into the same
batches; each answer is compared with that of the task's own model, and the
accuracy on each task's test texts with the single model's.

    python -m benchmarks.bank_on_tasks [--adapters adapters] [--json FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import keras_lora
from app.learn.batches import predict_texts
from app.predict import load_adapted
from app.texts.base import Tokenizer, load_base
from app.texts.tasks import TASKS, get_task


def tasks_in(folder: Path) -> list[str]:
    """The tasks of which a folder has an adapter."""
    return [n for n in TASKS if (folder / f"{n}.safetensors").is_file()]


def measure(folder: Path, names: tuple[str, ...], most: int) -> dict[str, Any]:
    """Predicts each task's test texts alone, then all of them mixed."""
    tokenizer = Tokenizer()
    texts, labels, owners, alone = [], [], [], []
    for name in names:
        task, file = get_task(name), folder / f"{name}.safetensors"
        test = task.load().test
        model = load_adapted(file, task)
        alone += list(predict_texts(model, test.texts[:most], tokenizer))
        texts += list(test.texts[:most])
        labels += list(test.labels[:most])
        owners += [name] * len(test.texts[:most])
    bank = keras_lora.AdapterBank(load_base(), capacity=len(names))
    for name in names:
        bank.load(name, folder / f"{name}.safetensors")
    order = np.random.default_rng(0).permutation(len(texts))
    mixed: list[Any] = [None] * len(texts)
    batches = 0
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        outputs = bank.predict(
            tokenizer([texts[i] for i in rows]),
            adapter=[owners[i] for i in rows],
        )
        batches += 1
        for row, output in zip(rows, outputs, strict=True):
            mixed[row] = output
    print(bank.summary())
    bank.detach()
    result: dict[str, Any] = {"batches": batches, "tasks": {}}
    for name in names:
        rows = [i for i, owner in enumerate(owners) if owner == name]
        result["tasks"][name] = {
            "texts": len(rows),
            "largest_difference": float(
                max(np.abs(mixed[i] - alone[i]).max() for i in rows)
            ),
            "accuracy_alone": accuracy(alone, labels, rows),
            "accuracy_in_bank": accuracy(mixed, labels, rows),
        }
    return result


def accuracy(outputs: Any, labels: Any, rows: list[int]) -> float:
    """Share of rows whose likeliest class is the right one."""
    right = [int(np.argmax(outputs[i])) == int(labels[i]) for i in rows]
    return float(np.mean(right))


def main() -> None:
    """Runs the comparison as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapters", type=Path, default=Path("adapters"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--most", type=int, help="test texts of each task")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    names = options.tasks or tasks_in(options.adapters)
    if not names:
        parser.error(f"no task's adapter in {options.adapters}")
    result = measure(options.adapters, tuple(names), options.most)
    for name, row in result["tasks"].items():
        print(
            f"{name:18} {row['texts']:>5} texts, largest difference "
            f"{row['largest_difference']:.1e}, accuracy alone "
            f"{row['accuracy_alone']:.4f}, in the bank "
            f"{row['accuracy_in_bank']:.4f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
