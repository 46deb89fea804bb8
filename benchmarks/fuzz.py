"""Hostile adapter files against everything that reads one.

    python -m benchmarks.fuzz --inputs 20000 --json fuzz.json

Good files are changed in seeded ways (`benchmarks/hostile.py`) and given to
`inspect_adapter`, `load_adapter`, `AdapterBank.load` and `combine`. Each ends
in a clean load or in keras_lora's own `ValueError`; after a refusal the model
or bank is the same to the bit. Anything else is a finding, and its bytes are
kept.

    python -m benchmarks.fuzz --costs 1000

Random heads of hostile sizes; what each door takes is measured instead
(`benchmarks/costs.py`).
"""

import argparse
import contextlib
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import keras
import psutil

from benchmarks import hostile, odd_parts
from benchmarks.arena import GOOD, Arena, Finding
from benchmarks.costs import fuzz_costs

MEGABYTE = 1 << 20


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
        header, record, body = odd_parts.parts(data)
        record["extra"] = "x" * size
        text = odd_parts.joined(header, record, body)
        arena.give(f"a record of {size // 10**6} MB", text)
        nested = '{"extra": [' + "[]," * (size // 3) + "[]]}"
        text = odd_parts.joined(header, nested, body)
        arena.give(f"{size // 3:,} lists", text)
    claim = (10 << 30).to_bytes(8, "little") + data[8:]
    arena.give("a header that claims 10 GB", claim)
    header, record, body = odd_parts.parts(data)
    header["stem/lora_a"]["data_offsets"] = [0, 10 << 30]
    header["stem/lora_a"]["shape"] = [10 << 28]
    arena.give(
        "a tensor that claims 10 GB", odd_parts.joined(header, None, body)
    )
    _, record, _ = odd_parts.parts(data)
    record["head"]["layers"] = [
        {"class": "ReLU", "config": {}, "input_shape": None}
    ] * 100_000
    many = odd_parts.rebuilt(record, odd_parts.tensors_of(data))
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
    parser.add_argument("--costs", type=int, help="heads to measure instead")
    options = parser.parse_args()
    if options.costs:
        return report(fuzz_costs(options.costs, options.seed), options.json)
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
    return report(result, options.json)


def report(result, file):
    """Prints and writes a result; whether it has findings."""
    versions = {"backend": keras.backend.backend(), "keras": keras.__version__}
    text = json.dumps({**versions, **result}, indent=1)
    if file:
        file.write_text(text + "\n")
    print(text)
    return bool(result["findings"])


if __name__ == "__main__":
    sys.exit(main())
