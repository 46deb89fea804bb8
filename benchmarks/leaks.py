"""Whether a bank that loads and unloads for ever grows.

    python -m benchmarks.leaks --loads 10000

Adapters of two methods, with heads and without, are loaded, called, replaced
and unloaded in turn. Prints memory, live objects and traces a tenth at a time
as JSON; all of them have to stay level.
"""

import argparse
import gc
import json
import tempfile
from pathlib import Path

import keras
import psutil
from keras import layers

from benchmarks.soak import Soak

SETTLED = 1
"""Of the readings, the first that counts: before it, caches fill."""


def traces(soak):
    """A list that grows by one whenever the base's Python code runs.

    A compiled function runs it only while it is traced (torch runs it always).
    """
    seen = []
    layer = soak.base.layers[0]
    act = layer.activation
    layer.activation = lambda y: (seen.append(1), act(y))[1]
    return seen


def cycle(soak, number):
    """One load, two calls, and one unload; every other replaces a name."""
    files = soak.files
    name = f"churn{number % 2}"
    soak.bank.load(name, files[number % len(files)])
    soak.bank.predict(soak.x[:4], adapter=[name, None, "n0", name])
    if number % 2:
        soak.bank.unload(name)


def reading(process, seen):
    gc.collect()
    things = gc.get_objects()
    return {
        "memory_mb": round(process.memory_info().rss / 1e6, 1),
        "objects": len(things),
        "variables": sum(isinstance(t, keras.Variable) for t in things),
        "layers": sum(isinstance(t, layers.Layer) for t in things),
        "traces": len(seen),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(folder)
        seen = traces(soak)
        for number in range(100):
            cycle(soak, number)
        readings = [reading(process, seen)]
        for _ in range(10):
            for number in range(options.loads // 10):
                cycle(soak, number)
            readings.append(reading(process, seen))
        soak.bank.detach()
    level = {
        key: max(r[key] for r in readings[SETTLED:]) - readings[SETTLED][key]
        for key in readings[0]
    }
    result = {
        "backend": keras.backend.backend(),
        "loads": options.loads,
        "readings": readings,
        "growth": level,
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
