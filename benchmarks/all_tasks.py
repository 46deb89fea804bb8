"""All tasks about the same texts, against a pass of the base.

Five adapters with heads: ladders beside the base, LoRA on its last two blocks,
and LoRA on all of them, each by `predict_all`; and the latter by a call of
`predict` each. The sides take turns.

    python -m benchmarks.all_tasks [--rounds 20] [--json FILE]
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from benchmarks.all_tasks_table import all_tasks
from benchmarks.bank_parts import fresh, milliseconds
from benchmarks.train_step import add_settings, batch, build, describe, spread

TASKS = 5
SETTINGS = ("layers", "width", "tokens", "rounds")
KINDS = {
    "ladders": keras_lora.SideConfig(),
    "LoRA, the last 2 blocks": keras_lora.LoRAConfig(layers=slice(-2, None)),
    "LoRA, all blocks": keras_lora.LoRAConfig(),
}
WARM = 3


def bank_of(config: Any, base: Any) -> Any:
    """A bank with adapters of one kind, of random values."""
    rng = np.random.default_rng(0)
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(TASKS):
            keras_lora.inject(base, config)
            model = keras.Model(base.input, keras.layers.Dense(2)(base.output))
            for variable in model.trainable_weights:
                variable.assign(0.02 * rng.normal(size=variable.shape))
            files.append(Path(folder) / f"{number}.safetensors")
            keras_lora.save_adapter(model, files[-1])
            keras_lora.eject(base)
        bank = keras_lora.AdapterBank(base, capacity=TASKS)
        for number, file in enumerate(files):
            bank.load(f"task-{number}", file)
    return bank


def measured(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Milliseconds of every side, for some rows."""
    x = keras.tree.map_structure(lambda a: a[:rows], batch(options)[0])
    plain, _ = build(options)
    weights = plain.get_weights()
    banks = {
        kind: bank_of(config, fresh(options, weights))
        for kind, config in KINDS.items()
    }
    acts: dict[str, Callable[[], Any]] = {
        "the base": lambda: plain.predict_on_batch(x)
    }
    for kind, bank in banks.items():
        acts[kind] = lambda bank=bank: bank.predict_all(x)
    last = banks["LoRA, all blocks"]
    acts["LoRA, a call each"] = lambda: [
        last.predict(x, adapter=name) for name in last.names
    ]
    times: dict[str, list[float]] = {side: [] for side in acts}
    for number in range(WARM + options.rounds):
        for side, act in acts.items():
            taken = milliseconds(act)
            if number >= WARM:
                times[side].append(taken)
    found = {side: np.array(values) for side, values in times.items()}
    return {
        side: {
            "milliseconds": spread(values),
            "over_base": spread(values / found["the base"]),
        }
        for side, values in found.items()
    }


def main() -> None:
    """Runs the benchmark as the command line says, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser)
    options = parser.parse_args()
    result = {
        **describe(options, SETTINGS),
        "tasks": TASKS,
        "rows": {
            str(rows): measured(options, rows) for rows in (options.batch, 1)
        },
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(all_tasks(result))


if __name__ == "__main__":
    main()
