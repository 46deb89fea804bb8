"""What long runs and hostile files came to, as Markdown."""

from typing import Any

from benchmarks.markdown import table


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
            "Callers with different adapters while others load, unload and "
            "replace them (`python -m benchmarks.soak`). An error says that a "
            "name is gone, or that a name in use was not unloaded.",
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
            visitor["task"] + (" and trains" if visitor["trains"] else ""),
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
            f"For {result['seconds']:.0f} seconds both ask examples of their "
            "own task, while one of them trains an adapter on a thousand "
            f"texts. Server, training and both browsers share "
            f"{result['cores']} cores; median and 95th percentile "
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
            "Files that were changed as an attacker or a disk would "
            "(`python -m benchmarks.fuzz`); loaded / refused by each reader. "
            f"{result['inputs']:,} inputs, {result['calls']:,} calls, "
            f"{len(result['findings'])} that ended in anything else or changed "
            f"a model or bank; slowest call {slowest[0]:.2f} s ({slowest[1]}). "
            f"Memory {memory[0]:,} MB at the start, {memory[-1]:,} MB at the "
            f"end, {peak:,} MB at most.",
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
            f"One bank, {result['loads']:,} loads (`python -m "
            "benchmarks.leaks`).",
            table(["loads", *names.values()], rows),
        ]
    )
