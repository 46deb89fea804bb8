"""Hostile adapter files against everything that reads one.

    python -m benchmarks.fuzz --inputs 20000 --json fuzz.json

Good files are changed in seeded ways (`benchmarks/hostile.py`) and given to
`inspect_adapter`, `load_adapter`, `AdapterBank.load` and `combine`. Each ends
in a clean load or in keras_lora's own `ValueError`; after a refusal the model
or bank is the same to the bit. Anything else is a finding, and its bytes are
kept.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import psutil
from keras import layers

import keras_lora
from benchmarks import hostile
from keras_lora import AdapterConfig, DoRAConfig, LoRAConfig

LIBRARY = os.path.dirname(keras_lora.__file__)
HANGS_AFTER = 120
MEGABYTE = 1 << 20


def make_base():
    """A small base: two layers that carry LoRA and a norm between them."""
    keras.utils.set_random_seed(3)
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="stem")(i)
    y = layers.BatchNormalization(name="norm")(y)
    return keras.Model(i, layers.Dense(4, name="branch")(y))


def with_head(base):
    """A base with the head that the good files have."""
    top = [layers.Dropout(0.1), layers.Dense(3), layers.LayerNormalization()]
    return keras.Sequential([base, *top])


GOOD = {
    "lora": lambda base: keras_lora.inject(base, LoRAConfig(2)),
    "bottleneck": lambda base: keras_lora.inject(
        base, AdapterConfig(3, targets=["stem", "norm"], layer_norm=True)
    ),
    "trained": lambda base: keras_lora.inject(
        base, LoRAConfig(2, targets=["branch"]), train=["norm"]
    ),
    "dora": lambda base: keras_lora.inject(base, DoRAConfig(2)),
    "parallel": lambda base: keras_lora.inject(
        base,
        AdapterConfig(3, targets=["stem"], placement="parallel", scale=2.0),
    ),
}


def fill(variables, seed):
    generator = np.random.default_rng(seed)
    for variable in variables:
        size = tuple(variable.shape)
        variable.assign(0.3 * generator.normal(size=size).astype("float32"))


def state(model):
    """All of a model that a refused file must not change."""
    return [
        (type(layer), layer.name, [v.path for v in layer.weights])
        for layer in model._flatten_layers()
    ] + [keras.ops.convert_to_numpy(v).tobytes() for v in model.weights]


def is_own(error):
    """Whether an error is a `ValueError` that keras_lora itself raised."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    file = last.tb_frame.f_code.co_filename
    return type(error) is ValueError and file.startswith(LIBRARY + os.sep)


class Finding(Exception):
    """An input that did what none may do."""


class Arena:
    """Models and a bank to load files into, and what they are before.

    Args:
        folder: Where files are written.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.file = self.folder / "input.safetensors"
        self.outcomes = collections.Counter()
        self.slowest = {}
        self.x = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
        self.prepare()

    def prepare(self):
        """Makes all models and the bank anew, as after a finding."""
        self.good, self.models, self.states = {}, {}, {}
        for number, (name, adapt) in enumerate(GOOD.items()):
            model = self.models[name] = with_head(make_base())
            adapt(model.layers[0])
            fill(model.trainable_variables, number + 1)
            path = self.folder / f"{name}.safetensors"
            keras_lora.save_adapter(model, path)
            self.good[name] = path.read_bytes()
            self.states[name] = self.state(model)
        self.base = make_base()
        self.bare = self.state(self.base)
        self.bank_base = make_base()
        self.bank = keras_lora.AdapterBank(self.bank_base, 3)
        for name in ("lora", "bottleneck"):
            plain = GOOD[name](make_base())
            fill(plain.trainable_variables, 9)
            keras_lora.save_adapter(plain, self.folder / name)
            self.bank.load(name, self.folder / name)
        self.bank.load("other", self.folder / "lora")
        self.answers = self.ask()

    def state(self, model):
        """A model's weights and classes, and what it answers."""
        return [*state(model), self.call(model).tobytes()]

    def call(self, model):
        return np.asarray(model.predict_on_batch(self.x))

    def ask(self):
        """What the bank answers: base, two adapters and one under change."""
        rows = [None, "lora", "bottleneck", "other"]
        got = self.bank.predict(self.x, adapter=rows)
        return [np.asarray(row).tobytes() for row in got]

    def doors(self, name, bare):
        """What an input is given to."""
        doors = {
            "inspect_adapter": self.inspect,
            "load_adapter": lambda: self.load(name),
            "AdapterBank.load": self.serve,
        }
        if bare:
            doors["load_adapter, bare base"] = self.load_bare
            doors["combine"] = self.combine
        return doors

    def give(self, kind, data, name="lora", bare=False):
        """Gives an input to every door; raises a `Finding` if one fails.

        Args:
            kind: What the counts are kept by.
            data: The file's bytes.
            name: The good file it was made of.
            bare: Whether a base without adapter is tried too.
        """
        self.file.write_bytes(data)
        for door, act in self.doors(name, bare).items():
            started = time.perf_counter()
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            try:
                took = act()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                what = "" if isinstance(error, Finding) else repr(error)
                raise Finding(f"{door}, {kind}: {what or error}") from error
            finally:
                faulthandler.cancel_dump_traceback_later()
            seconds = time.perf_counter() - started
            self.outcomes[kind, door, "loaded" if took else "refused"] += 1
            if seconds > self.slowest.get(door, (0, ""))[0]:
                self.slowest[door] = (round(seconds, 3), kind)

    def attempt(self, act):
        """Whether an action succeeded; it may only be refused otherwise."""
        try:
            act()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if not is_own(error):
                raise Finding(f"{type(error).__name__}: {error}") from error
            if not str(error).isprintable():
                lines = str(error).split("\n")
                if not all(line.isprintable() for line in lines):
                    raise Finding("a message with control codes") from error
            if len(str(error)) > MEGABYTE:
                raise Finding("a message over a megabyte") from error
            return False
        return True

    def inspect(self):
        found = []
        if not self.attempt(
            lambda: found.append(keras_lora.inspect_adapter(self.file))
        ):
            return False
        text = str(found[0])
        if not all(line.isprintable() for line in text.split("\n")):
            raise Finding("a description with control codes")
        text.encode()
        if found[0].head is not None:
            self.attempt(found[0].build_head)
        return True

    def load(self, name):
        model = self.models[name]
        if not self.attempt(lambda: keras_lora.load_adapter(model, self.file)):
            if self.state(model) != self.states[name]:
                raise Finding("a refused file changed the model")
            return False
        self.call(model)
        keras_lora.load_adapter(model, self.folder / f"{name}.safetensors")
        if self.state(model) != self.states[name]:
            raise Finding("a good file does not bring the model back")
        return True

    def load_bare(self):
        took = self.attempt(
            lambda: keras_lora.load_adapter(self.base, self.file, head=False)
        )
        if took:
            with keras_lora.disabled(self.base):
                off = self.call(self.base)
            base = np.frombuffer(self.bare[-1], "f4").reshape(off.shape)
            if not np.allclose(off, base, rtol=0, atol=1e-5):
                raise Finding("`disabled` does not give the base's output")
            keras_lora.eject(self.base)
        if self.state(self.base) != self.bare:
            raise Finding("the base is not what it was")
        return took

    def combine(self):
        new = self.folder / "combined.safetensors"
        new.unlink(missing_ok=True)
        parts = [(self.file, 1.0), (self.folder / "lora.safetensors", -0.5)]
        if not self.attempt(lambda: keras_lora.combine(parts, new, head=False)):
            if new.exists():
                raise Finding("a file was written")
            return False
        keras_lora.inspect_adapter(new)
        return True

    def serve(self):
        bank = self.bank
        took = self.attempt(lambda: bank.load("other", self.file))
        answers = self.ask()
        if not took and answers != self.answers:
            raise Finding("a refused file changed the bank")
        if answers[:3] != self.answers[:3]:
            raise Finding("another row has changed")
        if took:
            bank.load("other", self.folder / "lora")
        return took


def choose(chance):
    """A kind of change and a good file."""
    common = [kind for kind in hostile.KINDS if kind not in hostile.RARE]
    kind = chance.choice(common)
    if chance.random() < 0.03:
        kind = chance.choice(hostile.RARE)
    return kind, chance.choice(list(GOOD))


def run(arena, inputs, seed, findings):
    """Gives seeded inputs to an arena; each 20th also to a bare base."""
    for number in range(inputs):
        chance = random.Random(f"{seed}/{number}")
        kind, name = choose(chance)
        data = hostile.KINDS[kind](chance, arena.good[name])
        bare = number % 20 == 0
        try:
            arena.give(kind, data, name, bare)
        except Finding as finding:
            key = f"{seed}/{number}".replace("/", "-")
            Path(findings).mkdir(parents=True, exist_ok=True)
            (Path(findings) / f"{key}.safetensors").write_bytes(data)
            arena.prepare()
            yield f"{key}: {finding}"[:500]


def extremes(arena):
    """Single inputs of a size that thousands could not have."""
    data = arena.good["lora"]
    for seed in range(3):
        many = hostile.many_tensors(random.Random(seed), data, count=100_000)
        arena.give("100,000 tensors", many, bare=True)
    for size in (7_000_000, 60_000_000):
        header, record, body = hostile.parts(data)
        record["extra"] = "x" * size
        text = hostile.joined(header, record, body)
        arena.give(f"a record of {size // 10**6} MB", text)
        nested = '{"extra": [' + "[]," * (size // 3) + "[]]}"
        text = hostile.joined(header, nested, body)
        arena.give(f"{size // 3:,} lists", text)
    claim = (10 << 30).to_bytes(8, "little") + data[8:]
    arena.give("a header that claims 10 GB", claim)
    header, record, body = hostile.parts(data)
    header["stem/lora_a"]["data_offsets"] = [0, 10 << 30]
    header["stem/lora_a"]["shape"] = [10 << 28]
    arena.give("a tensor that claims 10 GB", hostile.joined(header, None, body))
    _, record, _ = hostile.parts(data)
    record["head"]["layers"] = [
        {"class": "ReLU", "config": {}, "input_shape": None}
    ] * 100_000
    many = hostile.rebuilt(record, hostile.tensors_of(data))
    arena.give("a head of 100,000 layers", many)


def table(outcomes):
    """Counts by kind, door and outcome, as JSON has them."""
    found = {}
    for (kind, door, outcome), count in sorted(outcomes.items()):
        found.setdefault(kind, {}).setdefault(door, {})[outcome] = count
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--findings", default="fuzz-findings")
    options = parser.parse_args()
    process = psutil.Process()
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(folder)
        for _ in run(arena, 200, "warm-up", options.findings):
            pass
        arena.outcomes.clear()
        arena.slowest.clear()
        start = process.memory_info()
        room = start.vms + (4 << 30)
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
        began = time.monotonic()
        memory = [start.rss]
        for quarter in range(4):
            count = options.inputs // 4
            seed = f"{options.seed}/{quarter}"
            for problem in run(arena, count, seed, options.findings):
                print(problem, file=sys.stderr, flush=True)
                problems.append(problem)
            memory.append(process.memory_info().rss)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        common = dict(arena.slowest)
        arena.slowest.clear()
        try:
            extremes(arena)
        except Finding as finding:
            problems.append(str(finding))
        extreme_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    inputs = sum(
        count
        for (_, door, _), count in arena.outcomes.items()
        if door == "inspect_adapter"
    )
    result = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "inputs": inputs,
        "calls": sum(arena.outcomes.values()),
        "seconds": round(time.monotonic() - began),
        "findings": problems,
        "outcomes": table(arena.outcomes),
        "slowest_call_seconds": common,
        "slowest_extreme_call_seconds": arena.slowest,
        "memory_mb": [round(m / MEGABYTE) for m in memory],
        "peak_memory_mb": round(peak / MEGABYTE),
        "peak_memory_mb_with_extremes": round(extreme_peak / MEGABYTE),
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
