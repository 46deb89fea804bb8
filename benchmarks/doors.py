"""What the doors of the library cost on a base of about 100 million weights.

`inject`, `save_adapter` and `load_adapter` (onto a plain base and onto one
adapted alike) are held against hashing the base: plain BLAKE2b, in one thread,
over the values' bytes as they lie in memory. `AdapterBank(base)` is held
against the first prediction of a new model over the base, which traces it and
runs it once. All are timed in turn, in each round; with `--against`, the code
of another checkout takes turns with this one, in a process of its own.

    python -m benchmarks.doors [--against CHECKOUT] [--rounds 5] [--json FILE]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora

ROOT = Path(__file__).parents[1]
BASES = ("BERT", "plain")
SIDES = ("now", "before")
DOORS = ("inject", "save_adapter", "load_adapter alike", "load_adapter")


def make_base(kind: str, options: argparse.Namespace) -> Any:
    """A KerasHub encoder, or layers of Keras alone; about as many weights."""
    if kind == "BERT":
        from keras_hub.models import BertBackbone

        return BertBackbone(
            vocabulary_size=30522,
            num_layers=options.layers,
            num_heads=max(1, options.width // 64),
            hidden_dim=options.width,
            intermediate_dim=4 * options.width,
        )
    layers, width = keras.layers, options.width
    stack: list[Any] = []
    for _ in range(options.layers):
        stack += [
            layers.Dense(4 * width, "relu"),
            layers.Dense(width),
            layers.Dense(4 * width, "relu"),
            layers.Dense(width),
        ]
    return keras.Sequential([keras.Input((width,)), *stack])


def inputs_of(base: Any) -> Any:
    """A base's symbolic inputs: a nest, or the one there is."""
    return base.input if len(base.inputs) > 1 else base.inputs[0]


def rows_for(base: Any) -> Any:
    """Eight rows of a base's inputs, eight tokens each."""
    return keras.tree.map_structure(
        lambda t: np.ones((8, *(n or 8 for n in t.shape[1:])), t.dtype),
        inputs_of(base),
    )


def seconds(act: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def hash_plainly(values: list[np.ndarray]) -> list[str]:
    """The fingerprint's hashes, by nothing but hashlib."""
    return [
        hashlib.blake2b(value.data, digest_size=8).hexdigest()
        for value in values
    ]


def measure_round(base: Any, file: Path) -> dict[str, float]:
    """Every door once, and what they are held against."""
    values = [np.ascontiguousarray(np.array(v)) for v in base.weights]
    rows, config = rows_for(base), keras_lora.LoRAConfig(rank=8)
    took = {"hash": seconds(lambda: hash_plainly(values))}
    took["inject"] = seconds(lambda: keras_lora.inject(base, config))
    took["save_adapter"] = seconds(lambda: keras_lora.save_adapter(base, file))
    took["load_adapter alike"] = seconds(
        lambda: keras_lora.load_adapter(base, file)
    )
    keras_lora.eject(base)
    took["load_adapter"] = seconds(lambda: keras_lora.load_adapter(base, file))
    keras_lora.eject(base)
    outer = keras.Model(inputs_of(base), base.outputs)
    took["first prediction"] = seconds(lambda: outer.predict_on_batch(rows))
    banks = []
    took["AdapterBank"] = seconds(
        lambda: banks.append(keras_lora.AdapterBank(base))
    )
    banks.pop().detach()
    return took


def serve(kind: str, options: argparse.Namespace) -> None:
    """Measures a round for each line that comes in; the first is a warm-up."""
    base = make_base(kind, options)
    with tempfile.TemporaryDirectory() as folder:
        for _ in sys.stdin:
            took = measure_round(base, Path(folder) / "task.safetensors")
            took["weights"] = base.count_params()
            print(json.dumps(took), flush=True)


def start(kind: str, code: Path, options: argparse.Namespace) -> Any:
    """A process that measures the code of one checkout."""
    command = [sys.executable, __file__, "--serve", kind]
    for name in ("layers", "width"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(code)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: Any) -> dict[str, float]:
    """One round of a process."""
    process.stdin.write("\n")
    process.stdin.flush()
    while line := process.stdout.readline():
        if line.startswith("{"):
            found: dict[str, float] = json.loads(line)
            return found
    raise RuntimeError("a process that measures has ended")


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of one base, the sides in turn."""
    codes = {"now": ROOT}
    if options.against:
        codes["before"] = options.against.resolve()
    processes = {s: start(kind, code, options) for s, code in codes.items()}
    rounds: dict[str, list[dict[str, float]]] = {s: [] for s in codes}
    try:
        for number in range(options.rounds + 1):
            for side, process in processes.items():
                found = ask(process)
                if number:
                    rounds[side].append(found)
            print(f"{kind}: round {number} of {options.rounds}", flush=True)
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return {
        "weights": rounds["now"][0]["weights"],
        "sides": {side: in_short(found) for side, found in rounds.items()},
    }


def in_short(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Quartiles of seconds, and of each door over what it is held against."""

    def spread(values: Any) -> list[float]:
        return [float(v) for v in np.percentile(list(values), (25, 50, 75))]

    floors = dict.fromkeys(DOORS, "hash") | {"AdapterBank": "first prediction"}
    names = ["hash", *DOORS, "first prediction", "AdapterBank"]
    return {
        "seconds": {n: spread(r[n] for r in rounds) for n in names},
        "ratio": {
            name: spread(r[name] / r[floor] for r in rounds)
            for name, floor in floors.items()
        },
    }


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bases", nargs="+", choices=BASES, default=BASES)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--serve", choices=BASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options)
        return
    from benchmarks.doors_table import doors
    from benchmarks.train_step import describe

    result = describe(options, ("layers", "width", "rounds"))
    result["bases"] = {kind: measure(kind, options) for kind in options.bases}
    print(doors(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
