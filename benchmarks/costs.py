"""What random heads of hostile sizes take at each door: seconds and memory.

Each door is tried in a process of its own that another one watches: what hangs
or dies is a finding, and so is what takes more than `MOST_SECONDS` or
`MOST_MEGABYTES`. `python -m benchmarks.fuzz --costs 1000` runs it.
"""

import faulthandler
import multiprocessing
import random
import re
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.costly import costly_file, random_head

MOST_SECONDS = 2
MOST_MEGABYTES = 200
HANGS_AFTER = 60
NAMED = re.compile(
    r"layer \d+|\w+\.call\(\)|its head|the file's head|labels|layer '"
)
"""What a refusal says of the layer it is about, or of the head as a whole."""
ROWS = 32
WIDTH = 32
"""Of the demo's base, where it is small."""


def measured(act):
    """Seconds, and megabytes of memory at most above those before."""
    process = Path("/proc/self")
    (process / "clear_refs").write_text("5")  # the peak starts from here
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    try:
        act()
        outcome = "loaded"
    except Exception as error:  # at a length that no load has tried
        outcome = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    lines = (process / "status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return seconds, max(0, int(peak) * 1024 - before) / 1e6, outcome


class Doors:
    """Bases, a bank on each, and the demo: what a stranger's file is given to.

    One base has sequences of any length, the other images.
    """

    def __init__(self, folder):
        import keras
        import numpy as np

        import keras_lora
        from app.serve.guests import Shelf
        from app.serve.service import Service
        from tests.app.tiny import adapters_folder, tiny_source

        self.file = Path(folder) / "input.safetensors"
        self.bases, self.banks, self.good, self.inputs = [], [], [], []
        for shape in ((None, 6), (16, 16, 6)):
            i = keras.Input(shape)
            base = keras.Model(i, keras.layers.Dense(8, name="stem")(i))
            keras_lora.inject(base, keras_lora.LoRAConfig(2))
            keras_lora.save_adapter(base, self.file)
            keras_lora.eject(base)
            self.good.append(self.file.read_bytes())
            self.bases.append(base)
            copy = keras.models.clone_model(base)
            copy.set_weights(base.get_weights())
            self.banks.append(keras_lora.AdapterBank(copy))
            rows = (ROWS, *[n or 64 for n in shape])
            self.inputs.append(np.ones(rows, "float32"))
        self.shapes = [x.shape[1:-1] + (8,) for x in self.inputs]
        adapters = Path(folder) / "adapters"
        adapters.mkdir()
        service = Service.start(tiny_source(adapters_folder(adapters)))
        self.service, self.shelf = service, Shelf(service)
        name = next(iter(service.shipped.tasks)).file
        self.good.append(Path(name).read_bytes())
        for seed in range(20):  # what is made once is nobody's cost
            self.give(f"warm-up/{seed}", hostile=False)

    def give(self, seed, hostile=True):
        """What each door took for the head of a seed."""
        chance = random.Random(seed)
        place = chance.randrange(2)
        _, entries, weights = random_head(chance, self.shapes[place], hostile)
        self.file.write_bytes(costly_file(self.good[place], entries, weights))
        data = costly_file(
            self.good[-1], *random_head(chance, (WIDTH,), hostile, 2)[1:]
        )
        return {
            "build_head and load_adapter": measured(lambda: self.load(place)),
            "AdapterBank.load and predict": measured(lambda: self.serve(place)),
            "the demo's upload": measured(lambda: self.upload(data)),
        }

    def load(self, place):
        """Into a model with the file's own head, where there is one."""
        import keras

        import keras_lora

        try:
            head = keras_lora.inspect_adapter(self.file).build_head().layers
        except ValueError:
            head = []
        base = self.bases[place]
        model = keras.Sequential([base, *head])
        keras_lora.load_adapter(model, self.file)
        keras_lora.eject(base)

    def serve(self, place):
        bank = self.banks[place]
        bank.load("a", self.file)
        bank.predict(self.inputs[place], adapter="a")

    def upload(self, data):
        served = self.shelf.add(data, "a.safetensors", ["one", "two"])
        self.service.answer_mixed([("a text", served)] * ROWS)
        self.shelf.remove(served.name)


def work(pipe):
    """Answers seeds with what each door took."""
    with tempfile.TemporaryDirectory() as folder:
        doors = Doors(folder)
        pipe.send("ready")
        while (seed := pipe.recv()) is not None:
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            found = doors.give(seed)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(found)


class Worker:
    """A process that is replaced when it dies or hangs."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def give(self, seed):
        """What the doors took, or None where the process did not come back."""
        self.pipe.send(seed)
        try:
            if self.pipe.poll(3 * HANGS_AFTER):
                return self.pipe.recv()
        except EOFError:
            pass
        self.process.kill()
        return None

    def close(self):
        self.pipe.send(None)
        self.process.join()


def fuzz_costs(count, seed=0):
    """The most that any of so many heads took at each door, and findings."""
    worker = Worker()
    doors, findings = {}, []
    for number in range(count):
        key = f"{seed}/{number}"
        took = worker.give(key)
        if took is None:
            findings.append(f"{key}: a door hung, or took the process down")
            worker = Worker()
            continue
        for door, (seconds, megabytes, outcome) in took.items():
            entry = doors.setdefault(
                door,
                {"loaded": 0, "refused": 0, "seconds": 0, "megabytes": 0},
            )
            entry["loaded" if outcome == "loaded" else "refused"] += 1
            entry["seconds"] = max(entry["seconds"], round(seconds, 2))
            entry["megabytes"] = max(entry["megabytes"], round(megabytes))
            if seconds > MOST_SECONDS or megabytes > MOST_MEGABYTES:
                findings.append(
                    f"{key}: {door} took {seconds:.1f} s and {megabytes:.0f} MB"
                )
            if outcome != "loaded" and not NAMED.search(outcome):
                findings.append(f"{key}: {door} names no layer: {outcome}")
    worker.close()
    return {"heads": count, "doors": doors, "findings": findings}
