"""Many callers of one bank while others load, unload and replace adapters.

    python -m benchmarks.soak --seconds 60 --threads 8

Every answer is compared with what the adapter's own model gave before. A name
is replaced by two contents in turn, so an answer is right where all its rows
are those of one of the two. Prints counts as JSON.
"""

import argparse
import collections
import gc
import itertools
import json
import random
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import psutil
from keras import layers

import keras_lora

TOLERANCE = 1e-5
WIDTH = 16


@dataclass
class Counts:
    """What happened; each thread has its own and they are added."""

    calls: int = 0
    rows: int = 0
    mismatches: int = 0
    loads: int = 0
    unloads: int = 0
    replacements: int = 0
    plain_calls: int = 0

    def __add__(self, other):
        values = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counts(*(a + b for a, b in values))


class Soak:
    """A small bank, files to put into it, and what each of them answers.

    Args:
        folder: Where files are written.
        contents: Number of different adapters.
        capacity: Slots of the bank.
        seed: Of all that is random.
    """

    def __init__(self, folder, contents=8, capacity=3, seed=0):
        self.random = np.random.default_rng(seed)
        self.base = keras.Sequential(
            [
                keras.Input((5, WIDTH)),
                layers.Dense(WIDTH, activation="tanh"),
                layers.Dense(WIDTH, activation="tanh"),
            ]
        )
        self.fill(self.base.weights)
        self.x = self.random.normal(size=(16, 5, WIDTH)).astype("float32")
        self.files, self.answers = [], [self.base.predict(self.x, verbose=0)]
        self.features = list(self.answers)
        for number in range(contents):
            self.make(Path(folder) / f"{number}.safetensors", number)
        self.bank = keras_lora.AdapterBank(
            self.base, capacity, rank=4, targets="all-linear"
        )
        # Of each name: which contents it may have, now or a moment ago.
        self.names = [f"n{number}" for number in range(contents // 2)]
        for number, name in enumerate(self.names):
            self.bank.load(name, self.files[2 * number])
        self.stop = threading.Event()
        self.errors = collections.Counter()

    def fill(self, variables):
        for variable in variables:
            value = 0.4 * self.random.normal(size=tuple(variable.shape))
            variable.assign(value.astype("float32"))

    def make(self, path, number):
        """Writes an adapter: LoRA or a bottleneck, every other with a head."""
        config = keras_lora.LoRAConfig(rank=2 + number % 3)
        if number % 4 == 3:
            config = keras_lora.AdapterConfig(bottleneck=3, targets=["dense"])
        keras_lora.inject(self.base, config)
        model = self.base
        if number % 2:
            model = keras.Sequential([self.base, layers.Dense(WIDTH)])
        self.fill(model.trainable_variables)
        self.features.append(self.base.predict(self.x, verbose=0))
        self.answers.append(model.predict(self.x, verbose=0))
        keras_lora.save_adapter(model, path)
        keras_lora.eject(self.base)
        self.files.append(path)

    def right(self, name, row, got):
        """Which of a name's two contents an answer is that of, if any."""
        if name is None:
            return {-1} if self.near(got, self.answers[0][row]) else set()
        first = 2 * self.names.index(name)
        return {
            number
            for number in (first, first + 1)
            if self.near(got, self.answers[number + 1][row])
        }

    def check_plain(self, name, got, counts):
        """A plain call's answers: the base's output, without any head."""
        if name is None:
            wanted = [self.answers[0]]
        else:
            first = 2 * self.names.index(name)
            wanted = self.features[first + 1 : first + 3]
        counts.plain_calls += 1
        counts.mismatches += not any(self.near(got, w) for w in wanted)

    def near(self, got, want):
        size = max(1.0, float(np.abs(want).max()))
        return float(np.abs(got - want).max()) <= TOLERANCE * size

    def call(self, chance, counts):
        """One call; all rows of a name must be of the same contents."""
        picked = chance.sample(range(len(self.x)), chance.randint(1, 12))
        one = chance.random() < 0.3
        names = [chance.choice([None, *self.names]) for _ in picked]
        if one:
            names = names[:1] * len(picked)
        adapter = names[0] if one else names
        size = chance.choice([4, 16])
        try:
            got = self.bank.predict(self.x[picked], adapter, batch_size=size)
        except ValueError as error:
            gone = [n for n in names if n and f"no adapter {n!r}" in str(error)]
            kind = "a name is gone" if gone else f"ValueError: {error}"
            self.errors[kind] += 1
            return
        counts.calls += 1
        counts.rows += len(picked)
        contents = collections.defaultdict(lambda: {0, 1, -1} | set(range(99)))
        for row, name, value in zip(picked, names, got, strict=True):
            contents[name] &= self.right(name, row, value)
        counts.mismatches += sum(not found for found in contents.values())

    def change(self, chance, counts):
        """Loads, unloads or replaces a name, or calls the base with it."""
        number = chance.randrange(len(self.names))
        name = self.names[number]
        act = chance.random()
        if act < 0.25:
            name = chance.choice([None, *self.bank.names])
            with self.bank.using(name):
                got = np.asarray(self.base.predict_on_batch(self.x))
            self.check_plain(name, got, counts)
        elif name in self.bank.names and act < 0.4:
            self.bank.unload(name)
            counts.unloads += 1
        else:
            there = name in self.bank.names
            self.bank.load(name, self.files[2 * number + chance.randrange(2)])
            counts.replacements += there
            counts.loads += not there

    def keep_at(self, act, seed, pause, counts):
        chance = random.Random(seed)
        while not self.stop.is_set():
            try:
                act(chance, counts)
            except ValueError as error:
                known = ("no adapter", "No slot is free")
                kind = next((k for k in known if k in str(error)), repr(error))
                self.errors[f"change: {kind}"] += 1
            except BaseException as error:
                self.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            time.sleep(pause)

    def run(self, seconds, callers, changers=2):
        """Runs all threads for some seconds; gives what they counted."""
        self.stop.clear()
        kinds = [(self.call, 0.0)] * callers + [(self.change, 0.005)] * changers
        counts = [Counts() for _ in kinds]
        threads = [
            threading.Thread(
                target=self.keep_at, args=(act, seed, pause, counts[seed])
            )
            for seed, (act, pause) in enumerate(kinds)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stop.set()
        for thread in threads:
            thread.join()
        return sum(counts, Counts())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--changers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also add the result here")
    options = parser.parse_args()
    process = psutil.Process()

    def megabytes():
        gc.collect()
        return round(process.memory_info().rss / 1e6, 1)

    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(folder)
        soak.run(options.seconds / 10, options.threads, options.changers)
        soak.errors.clear()
        memory = [megabytes()]
        total = Counts()
        for _ in itertools.repeat(None, 4):
            total += soak.run(
                options.seconds / 4, options.threads, options.changers
            )
            memory.append(megabytes())
        soak.bank.detach()
        after = soak.base.predict(soak.x, verbose=0)
    result = {
        "backend": keras.backend.backend(),
        "seconds": options.seconds,
        "callers": options.threads,
        "changers": options.changers,
        **vars(total),
        "errors": dict(soak.errors),
        "memory_mb": memory,
        "base_as_before": bool((after == soak.answers[0]).all()),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        add_run(options.json, result)


def add_run(path, result):
    """Puts a run among those in a file; one on each backend is kept."""
    runs = json.loads(path.read_text()) if path.is_file() else []
    runs = [run for run in runs if run["backend"] != result["backend"]]
    path.write_text(json.dumps([*runs, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
