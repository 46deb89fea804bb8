"""Adapters on convolutions: a real vision base, and clothes to tell apart.

EfficientNet-Lite0 on a part of Fashion-MNIST. Each side has the learning rate
of three that does best in validation (seed 0), and then three seeds at that
rate. Each run is written to the result file at once; what is there already is
not run again.

    python -m benchmarks.images [--minutes M] [--side NAME ...]
    python -m benchmarks.images --table

`--minutes` starts no run after so many.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_lora
from app.images.base import load_base
from app.images.data import LABELS, load_fashion, pictures
from benchmarks.images_sides import PROBE, SIDES, Part, attach, probe, train
from benchmarks.images_table import best_rate, images, key
from benchmarks.train_step import machine, versions

RESULTS = Path(__file__).parent / "results" / "images.json"
SEEDS = (0, 1, 2)
COUNTED = ("train", "validation", "test", "pixels", "epochs", "batch")


class Bench:
    """What the runs of one process share: pictures and a base."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        splits = load_fashion(
            options.train,
            options.validation,
            options.test,
            folder=options.folder,
        )
        self.parts = {
            name: Part(pictures(split.images, options.pixels), split.labels)
            for name, split in vars(splits).items()
        }
        self.base = load_base(options.pixels)
        self.fresh = digest(self.base)

    def probe(self) -> dict[str, Any]:
        """The frozen probe."""
        begun = time.perf_counter()
        return {**probe(self.base, self.parts), "seconds": since(begun)}

    def run(self, name: str, rate: float, seed: int) -> dict[str, Any]:
        """Trains one side once; the base is as it was afterwards."""
        side, options = SIDES[name], self.options
        keras.utils.set_random_seed(seed)
        model = attach(self.base, side, len(LABELS))
        begun, epochs = time.perf_counter(), []
        train(
            model,
            side,
            self.parts["train"],
            rate,
            epochs=options.epochs,
            batch=options.batch,
            each=lambda: epochs.append(since(begun)),
        )
        found = {
            "seconds": since(begun),
            "epoch seconds": np.diff(epochs).tolist(),
            "validation": self.accuracy(model, "validation"),
            "test": self.accuracy(model, "test"),
            "parameters": count(model.trainable_variables),
            "file bytes": file_bytes(model, side.config is not None),
        }
        if side.config is None:
            found["base moved"] = digest(self.base) != self.fresh
            self.base = load_base(options.pixels)
        else:
            keras_lora.eject(self.base)
            found["base moved"] = digest(self.base) != self.fresh
        return found

    def accuracy(self, model: Any, part: str) -> float:
        """The share of pictures that a model is right about."""
        x, y = self.parts[part].x, self.parts[part].y
        logits = model.predict(x, batch_size=100, verbose=0)
        return float(np.mean(logits.argmax(-1) == y))


def since(begun: float) -> float:
    """Seconds since then."""
    return time.perf_counter() - begun


def digest(model: Any) -> str:
    """A hash of every weight's bits, moving statistics included."""
    found = hashlib.sha256()
    for variable in model.weights:
        found.update(keras.ops.convert_to_numpy(variable).tobytes())
    return found.hexdigest()


def count(variables: Any) -> int:
    """How many values some variables hold."""
    return sum(int(np.prod(variable.shape)) for variable in variables)


def file_bytes(model: Any, adapted: bool) -> int:
    """What has to be kept of a trained model: a file, or all its weights."""
    if not adapted:
        return 4 * count(model.weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.safetensors"
        keras_lora.save_adapter(model, path)
        return path.stat().st_size


def next_run(
    runs: dict[str, Any], names: list[str]
) -> tuple[str, float, int] | None:
    """The first run that is missing: rates first, then seeds."""
    for name in names:
        for rate in SIDES[name].rates:
            if key(name, rate, SEEDS[0]) not in runs:
                return name, rate, SEEDS[0]
    for seed in SEEDS[1:]:
        for name in names:
            rate = best_rate(runs, name)
            if key(name, rate, seed) not in runs:
                return name, rate, seed
    return None


def described(options: argparse.Namespace) -> dict[str, Any]:
    """What the runs depend on besides the code."""
    backend = keras.backend.backend()
    return {
        "versions": versions(),
        "backend": backend,
        "machine": machine(),
        "settings": {name: getattr(options, name) for name in COUNTED},
    }


def kept(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The runs that a file of the same settings and versions holds."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if any(found[part] != about[part] for part in about):
        raise SystemExit(f"{path} is of other settings or versions")
    return found["runs"]


def write(path: Path, result: dict[str, Any]) -> None:
    """Replaces the result file."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)


def run_missing(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Does what is not there yet, and writes after each run."""
    begun, runs, bench = time.perf_counter(), result["runs"], Bench(options)
    if PROBE not in runs:
        runs[PROBE] = bench.probe()
        write(options.json, result)
    while wanted := next_run(runs, options.side):
        if since(begun) > 60 * options.minutes:
            break
        name = key(*wanted)
        runs[name] = bench.run(*wanted)
        write(options.json, result)
        test, seconds = runs[name]["test"], runs[name]["seconds"]
        print(f"{name}: test {test:.3f}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Runs the benchmark as the command line says, and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--side", nargs="*", default=list(SIDES))
    parser.add_argument("--folder", type=Path, help="of Fashion-MNIST's files")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.table:
        print(images(json.loads(options.json.read_text())))
        return
    about = described(options)
    result = {**about, "runs": kept(options.json, about)}
    run_missing(options, result)
    print(images(result))


if __name__ == "__main__":
    main()
