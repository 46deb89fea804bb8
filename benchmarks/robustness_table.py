"""What long runs and hostile files came to, as Markdown."""

from typing import Any

from benchmarks.markdown import table
from benchmarks.names import task_name


def soak(results: list[dict[str, Any]]) -> str:
    """Threads that call a bank while others change it."""
    rows = [
        [
            f"{r['backend']}, {r['callers']} + {r['changers']} threads",
            f"{r['seconds']:.0f}",
            f"{r['calls']:,}",
            f"{r['rows']:,}",
            f"{r['loads'] + r['unloads'] + r['replacements']:,}",
            f"{r['mismatches']:,}",
            "; ".join(f"{k}: {v:,}" for k, v in r["errors"].items()) or "none",
            f"{r['memory_mb'][0]:.0f} to {r['memory_mb'][-1]:.0f}",
        ]
        for r in results
    ]
    head = ["run", "seconds", "calls", "rows", "loads and unloads"]
    head += ["mismatches", "errors", "memory, MB"]
    return "\n\n".join(
        [
            "## Threads",
            "Some threads call one bank with different adapters while others "
            "load, unload and replace them (`python -m benchmarks.soak`). "
            "*Mismatches* are rows that are not what the adapter gives alone. "
            "*Errors* are those that such callers must expect: a name is gone, "
            "or a name in use was not unloaded.",
            table(head, rows),
        ]
    )


def two_sessions(result: dict[str, Any]) -> str:
    """Two visitors of the demo at once."""
    shown, told = (
        "shown after (median, 95 %)",
        "prediction, told by the app (median, 95 %)",
    )
    rows = [
        [
            task_name(visitor["task"])
            + (", and trains" if visitor["trains"] else ""),
            f"{visitor['answers']:,}",
            f"{visitor['wrong']:,}",
            *(
                f"{visitor[key][0]:,.0f} ({visitor[key][1]:,.0f})"
                for key in (told, shown)
            ),
        ]
        for visitor in result["visitors"]
    ]
    head = ["visitor asks", "answers", "wrong", "prediction, ms"]
    head += ["click to answer in the browser, ms"]
    return "\n\n".join(
        [
            "## The demo with two visitors",
            f"For {result['seconds']:.0f} seconds both ask for examples of "
            "their own task, while one of them trains an adapter on a thousand "
            "texts. Server, training and both browsers share "
            f"{result['cores']} cores. *Prediction* is what the app says it "
            "took. Figures are medians, with the 95th percentile in brackets "
            "(`python -m benchmarks.two_sessions`).",
            table(head, rows),
        ]
    )


def fuzz(result: dict[str, Any]) -> str:
    """Hostile adapter files and what came of them."""
    doors = ["inspect_adapter", "load_adapter", "AdapterBank.load"]
    rows = []
    for kind, found in result["outcomes"].items():
        counts = [found.get(door, {}) for door in doors]
        rows.append(
            [
                kind.replace("_", " "),
                f"{sum(counts[0].values()):,}",
                *(
                    f"{c.get('loaded', 0):,} / {c.get('refused', 0):,}"
                    for c in counts
                ),
            ]
        )
    head = ["kind of file", "inputs", *(f"`{door}`" for door in doors)]
    memory, peak = result["memory_mb"], result["peak_memory_mb"]
    slowest = max(result["slowest_call_seconds"].values())
    return "\n\n".join(
        [
            "## Hostile files",
            "Adapter files that were changed as an attacker or a bad disk "
            "would change them (`python -m benchmarks.fuzz`). A cell says how "
            "many of a kind a reader loaded / refused. "
            f"{result['inputs']:,} inputs made {result['calls']:,} calls; "
            f"{len(result['findings'])} of them ended in anything else or "
            "changed a model or bank. The slowest call took "
            f"{slowest[0]:.2f} s ({slowest[1]}). Memory was "
            f"{memory[0]:,} MB at the start, {memory[-1]:,} MB at the end and "
            f"{peak:,} MB at most.",
            table(head, rows),
        ]
    )


def leaks(result: dict[str, Any]) -> str:
    """Memory and objects over many loads and unloads."""
    readings = result["readings"]
    names = {
        "memory_mb": "memory, MB",
        "objects": "Python objects",
        "variables": "Keras variables",
        "layers": "Keras layers",
        "traces": "traces",
    }
    rows = [
        [f"{number * result['loads'] // 10:,}"]
        + [f"{reading[name]:,}" for name in names]
        for number, reading in enumerate(readings)
    ]
    return "\n\n".join(
        [
            "## Loads and unloads",
            f"One bank through {result['loads']:,} loads and unloads "
            "(`python -m benchmarks.leaks`). What it holds must not grow.",
            table(["loads", *names.values()], rows),
        ]
    )
