"""Serving many adapters from one bank, against the base and against swapping.

For each number of adapters, all of them resident: a mixed batch (each row its
own adapter) against a batch of the plain base, alternated; a switch to a
resident adapter, `load` from a file and bringing in a slot; 64 requests of 64
adapters against one model whose weights are swapped for each; bytes an
adapter. Then 1,000 adapters over 16 slots with a skewed choice of names,
beside a bank with a slot for each; and `benchmarks.wide_row`.

    python -m benchmarks.serving [--quick] [--json FILE]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import keras_lora
from benchmarks.bank_parts import FILES, fresh, make_files, milliseconds
from benchmarks.train_step import add_settings, batch, build, describe, spread
from benchmarks.wide_row import wide_row


def serve(
    options: argparse.Namespace,
    files: list[Path],
    weights: list[Any],
    n: int,
) -> dict[str, Any]:
    """All figures for `n` adapters in `n` slots."""
    x, _ = batch(options)
    plain, base = fresh(options, weights), fresh(options, weights)
    bank = keras_lora.AdapterBank(
        base, n, rank=options.rank, targets="all-linear"
    )
    names = [f"task-{number}" for number in range(n)]
    loads = [
        milliseconds(lambda i=i, name=name: bank.load(name, files[i % FILES]))
        for i, name in enumerate(names)
    ]
    first = milliseconds(lambda: bank.adapter_ids(names[:1]))
    bank.load(names[0], files[0])  # leaves its slot
    brought = [
        milliseconds(lambda name=name: bank.adapter_ids([name]))
        for name in names
    ]
    rows = [names[i % n] for i in range(options.batch)]
    for _ in range(3):
        plain.predict_on_batch(x)
        bank.predict(x, adapter=rows, batch_size=options.batch)
    alone, mixed = [], []
    for _ in range(options.rounds):
        alone.append(milliseconds(lambda: plain.predict_on_batch(x)))
        mixed.append(
            milliseconds(
                lambda: bank.predict(x, adapter=rows, batch_size=options.batch)
            )
        )

    def switch(name: str) -> None:
        with bank.using(name):
            pass

    switches = [
        milliseconds(lambda name=name: switch(name))
        for _ in range(3)
        for name in names[-16:]
    ]
    table = bank.summary()
    row = table.rows[0]
    tensors = 4 * keras_lora.inspect_adapter(files[0]).parameters
    result = {
        "base_ms": spread(alone),
        "mixed_ms": spread(mixed),
        "mixed_over_base": spread(np.array(mixed) / np.array(alone)),
        "switch_ms": spread(switches),
        "load_ms": spread(loads[len(loads) // 2 :]),
        "first_bring_in_ms": first,
        "bring_in_ms": spread(brought[len(brought) // 2 :]),
        "host_bytes_over_tensors": row.host_bytes / tensors,
        "slot_bytes_over_tensors": (row.resident_bytes - row.padding_bytes)
        / tensors,
        "padding_bytes": row.padding_bytes,
        "adapter_bytes": tensors,
    }
    if n == options.against_swapping:
        result["swapping"] = against_swapping(options, plain, bank, files)
    bank.detach()
    return result


def against_swapping(
    options: argparse.Namespace, model: Any, bank: Any, files: list[Path]
) -> dict[str, Any]:
    """One request a name: from the bank, and from a model that is swapped.

    The model is swapped in two ways: by `load_adapter`, which reads the file
    and checks the base, and by bare assignments of values kept in memory.
    """
    x, _ = batch(options)
    n = len(bank.names)
    many = {k: np.resize(v, (n, *v.shape[1:])) for k, v in x.items()}
    one = {k: v[:1] for k, v in x.items()}
    keras_lora.load_adapter(model, files[0])
    variables = model.trainable_weights
    kept = []
    for file in files:
        keras_lora.load_adapter(model, file)
        kept.append([np.array(v) for v in model.get_weights()])
    order = {id(v): number for number, v in enumerate(model.weights)}

    def by_file() -> None:
        for number in range(n):
            keras_lora.load_adapter(model, files[number % FILES])
            model.predict_on_batch(one)

    def by_assignment() -> None:
        for number in range(n):
            for variable in variables:
                variable.assign(kept[number % FILES][order[id(variable)]])
            model.predict_on_batch(one)

    def banked() -> None:
        bank.predict(many, adapter=bank.names, batch_size=options.batch)

    ways = {"by_file": by_file, "by_assignment": by_assignment}
    times: dict[str, list[float]] = {"bank": [], **{way: [] for way in ways}}
    banked(), by_assignment()
    for _ in range(max(3, options.rounds // 4)):
        times["bank"].append(milliseconds(banked))
        for way, act in ways.items():
            times[way].append(milliseconds(act))
    keras_lora.eject(model)
    return {
        "requests": n,
        **{f"{way}_ms": spread(values) for way, values in times.items()},
        **{
            f"bank_over_{way}": spread(
                np.array(times[way]) / np.array(times["bank"])
            )
            for way in ways
        },
    }


def skewed(
    options: argparse.Namespace, files: list[Path], weights: list[Any]
) -> dict[str, Any]:
    """Many more adapters than slots; popular names are asked for often.

    A bank in which all of them stay resident answers the same batches.
    """
    x, _ = batch(options)
    n = options.loaded
    banks = {
        key: keras_lora.AdapterBank(
            fresh(options, weights),
            slots,
            rank=options.rank,
            targets="all-linear",
        )
        for key, slots in (("few", 16), ("all", n))
    }
    names = [f"task-{number}" for number in range(n)]
    for bank in banks.values():
        for number, name in enumerate(names):
            bank.load(name, files[number % FILES])
    banks["all"].adapter_ids(names)
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, n + 1) ** 1.2
    popularity /= popularity.sum()
    times: dict[str, list[float]] = {key: [] for key in banks}
    before = asked = 0
    for number in range(5 + 2 * options.rounds):
        if number == 5:
            before = banks["few"].cache_misses
        chosen = [names[i] for i in rng.choice(n, options.batch, p=popularity)]
        for key, bank in banks.items():
            taken = milliseconds(
                lambda bank=bank, chosen=chosen: bank.predict(
                    x, adapter=chosen, batch_size=options.batch
                )
            )
            if number >= 5:
                times[key].append(taken)
        asked += len(set(chosen)) if number >= 5 else 0
    misses = banks["few"].cache_misses - before
    for bank in banks.values():
        bank.detach()
    few, all_in = (np.array(times[key]) for key in ("few", "all"))
    return {
        "loaded": n,
        "capacity": 16,
        "requests_a_second": 1e3 * options.batch / few.mean(),
        "requests_a_second_all_resident": 1e3 * options.batch / all_in.mean(),
        "over_all_resident": spread(all_in / few),
        "adapters_asked_for": asked,
        "brought_in": misses,
        "hit_rate": 1 - misses / asked,
    }


def show(n: int, row: dict[str, Any]) -> None:
    """Prints one number of adapters."""
    low, middle, high = row["mixed_over_base"]
    print(
        f"n={n:<4} base {row['base_ms'][1]:.0f} ms, mixed "
        f"{row['mixed_ms'][1]:.0f} ms: {middle:.3f} x ({low:.3f} to "
        f"{high:.3f}); switch {row['switch_ms'][1]:.2f} ms, load "
        f"{row['load_ms'][1]:.1f} ms, bring in {row['bring_in_ms'][1]:.1f} ms; "
        f"host {row['host_bytes_over_tensors']:.3f} x, slot "
        f"{row['slot_bytes_over_tensors']:.3f} x its tensors, padding "
        f"{row['padding_bytes']:,} bytes",
        flush=True,
    )
    if "swapping" in row:
        for way in ("by_file", "by_assignment"):
            low, middle, high = row["swapping"][f"bank_over_{way}"]
            print(
                f"  {row['swapping']['requests']} requests: {middle:.1f} x "
                f"({low:.1f} to {high:.1f}) the throughput of swapping {way}",
                flush=True,
            )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs everything."""
    result: dict[str, Any] = {
        **describe(options),
        "adapters": {},
    }
    base, _ = build(options)
    weights = base.get_weights()
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(base, Path(folder), options.rank)
        for n in options.adapters:
            row = serve(options, files, weights, n)
            result["adapters"][str(n)] = row
            show(n, row)
        if options.loaded:
            result["skewed"] = skewed(options, files, weights)
            print(result["skewed"], flush=True)
        if options.wide:
            result["wide_row"] = wide_row(options, files, weights)
            print(result["wide_row"], flush=True)
    return result


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_settings(parser)
    parser.add_argument(
        "--adapters", type=int, nargs="+", default=[1, 4, 16, 64, 256]
    )
    parser.add_argument("--against-swapping", type=int, default=64)
    parser.add_argument("--loaded", type=int, default=1000)
    parser.add_argument("--wide", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.adapters, options.loaded = 5, [16], 64
    result = measure(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
