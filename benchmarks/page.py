"""Writes `docs/benchmarks.md` and its plots from the committed results.

    python -m benchmarks.page

Every figure on the page comes from a JSON file in `benchmarks/results`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.all_tasks_table import all_tasks
from benchmarks.computed_once_table import computed_once
from benchmarks.doors_table import doors, inference
from benchmarks.generation_table import generation
from benchmarks.hyper_parameters_table import hyper_parameters
from benchmarks.images_table import images
from benchmarks.language_table import language_memory, perplexity
from benchmarks.markdown import spread, table, where
from benchmarks.methods_table import tables
from benchmarks.rematerialization_table import rematerialization
from benchmarks.server_table import hostile, server

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/benchmarks.md"
ASSETS = ROOT / "docs/assets"

HEAD = """# Benchmarks

Made by `python -m benchmarks.page` from the result files in
`benchmarks/results`. Sides of a comparison take turns in one run, so that a
noisy machine slows them alike; a ratio is the median of the rounds', with its
quartiles in brackets. `python -m benchmarks` measures everything again.
"""


def train_step(result: dict[str, Any]) -> str:
    """One training step against the other ways to train."""
    rows = [
        [
            side,
            f"{row['milliseconds'][1]:,.0f}",
            spread(row["keras_lora_over_it"]) if side != "keras_lora" else "",
            f"{row['trainable']:,}",
            f"{row['peak_mb']:,.0f}" if row["peak_mb"] else "",
        ]
        for side, row in result["sides"].items()
    ]
    head = ["side", "ms", "keras_lora's over it", "trainable", "peak MB"]
    return "\n\n".join(
        [
            "## A training step",
            "An encoder with random weights; adapters are on all linear "
            "layers. `enable_lora` adapts the same layers with frozen biases. "
            "The *activation floor* runs forward and takes the gradients of "
            "all activations and of no kernel: no method that adapts early "
            "layers can be faster.",
            where(result, "python -m benchmarks.train_step"),
            table(head, rows),
        ]
    )


def scaling(result: dict[str, Any]) -> str:
    """The step against rank, depth and width."""
    rows = []
    for name, points in result["sweeps"].items():
        for value, sides in points.items():
            full = sides["full fine-tuning"]
            peaks = [side["peak_mb"] for side in sides.values()]
            rows.append(
                [
                    f"{name} {value}",
                    f"{sides['keras_lora']['milliseconds'][1]:,.0f}",
                    f"{full['milliseconds'][1]:,.0f}",
                    spread(full["keras_lora_over_it"]),
                    f"{sides['keras_lora']['trainable']:,}",
                    " / ".join(f"{p:,.0f}" for p in peaks) if peaks[0] else "",
                ]
            )
    plots.scaling(result, ASSETS / "scaling.svg")
    head = ["varied", "keras_lora ms", "full ms", "ratio"]
    head += ["trainable", "peak MB: ours / full"]
    return "\n\n".join(
        [
            "## A step against rank, depth and width",
            "One setting is varied around the others.",
            where(result, "python -m benchmarks.scaling"),
            "![Step time of keras_lora and of full fine-tuning against rank, "
            "layers and width](assets/scaling.svg)",
            table(head, rows),
        ]
    )


def rewriting(result: dict[str, Any]) -> str:
    """Inject and eject beside many fitted models."""
    rows = [
        [
            what,
            f"{spread(result['alone_ms'][name][:3], 1)}",
            f"{spread(result['beside_ms'][name][:3], 1)}",
            f"{result['beside_ms'][name][3]:.1f}",
        ]
        for name, what in (
            ("inject", "`inject`"),
            ("eject", "`eject`"),
            ("scan", "a pass over all objects"),
        )
    ]
    beside = f"beside {result['settings']['models']} fitted models, ms"
    return "\n\n".join(
        [
            "## Rewriting a model",
            "A model of two layers, alone in its process and beside models "
            "that were fitted. Compiled models that hold its layers find out "
            "by themselves; looking for them among all objects of the process "
            "would take what the last row says.",
            where(result, "python -m benchmarks.rewriting"),
            table(["what", "alone, ms", beside, "slowest of those"], rows),
        ]
    )


def serving(result: dict[str, Any]) -> str:
    """A bank against its base, and against swapping."""
    rows = [
        [
            n,
            spread(row["mixed_over_base"]),
            f"{row['switch_ms'][1]:.2f}",
            f"{row['load_ms'][1]:.1f}",
            f"{row['bring_in_ms'][1]:.1f}",
            f"{row['host_bytes_over_tensors']:.3f}",
            f"{row['slot_bytes_over_tensors']:.3f}",
            f"{row['padding_bytes']:,}",
        ]
        for n, row in result["adapters"].items()
    ]
    head = ["adapters", "mixed batch over the base's", "switch ms", "load ms"]
    head += ["bring in ms", "host bytes / tensors", "slot bytes / tensors"]
    head += ["padding bytes"]
    parts = [
        "## Serving from a bank",
        "All adapters are resident; in a mixed batch each row has its own. A "
        "*switch* enters and leaves `using`, *load* reads and checks a file, "
        "*bring in* writes an adapter into a slot.",
        where(result, "python -m benchmarks.serving"),
        "![Time of a mixed batch over the base's against the number of "
        "adapters](assets/serving.svg)",
        table(head, rows),
    ]
    plots.serving(result, ASSETS / "serving.svg")
    for row in result["adapters"].values():
        if "swapping" in row:
            parts.append(swapping(row["swapping"]))
    if "skewed" in result:
        parts.append(skewed(result["skewed"]))
    if "wide_row" in result:
        parts.append(wide_row(result["wide_row"], result["settings"]))
    return "\n\n".join(parts)


def swapping(row: dict[str, Any]) -> str:
    """The bank's throughput over that of one model, adapter by adapter."""
    return (
        f"{row['requests']} requests, each for another adapter, took a median "
        f"of {row['bank_ms'][1]:,.0f} ms from the bank, "
        f"{row['by_file_ms'][1]:,.0f} ms with one model that is given each "
        "adapter by `load_adapter`, and "
        f"{row['by_assignment_ms'][1]:,.0f} ms with one whose variables are "
        "assigned from arrays kept in memory: the bank's throughput is "
        f"{spread(row['bank_over_by_file'], 1)} and "
        f"{spread(row['bank_over_by_assignment'], 1)} times theirs. On a CPU "
        "a row alone takes little more than its share of a batch, which "
        "bounds the second figure; what the bank saves there is the swap."
    )


def skewed(row: dict[str, Any]) -> str:
    """More adapters than slots."""
    beside = ""
    if "over_all_resident" in row:
        beside = (
            f" That is {spread(row['over_all_resident'])} times what a bank "
            "does in which all of them are resident."
        )
    return (
        f"With {row['loaded']:,} adapters loaded over {row['capacity']} slots "
        "and a skewed choice of names (popularity falls as the rank to the "
        f"power 1.2): {row['requests_a_second']:.0f} requests a second, "
        f"{row['hit_rate']:.0%} of the adapters asked for were resident."
        + beside
    )


def wide_row(row: dict[str, Any], settings: dict[str, Any]) -> str:
    """Rows of the base, and one wide row among narrow ones."""
    return (
        "A batch without any adapter, from a bank that holds some, took "
        f"{spread(row['no_adapter_over_base'])} times as long as from the "
        f"plain base. A batch with one row of rank {row['wide']} among rows "
        f"of rank {settings['rank']} took "
        f"{spread(row['one_wide_over_narrow'])} times as long as with all "
        f"rows of rank {settings['rank']}."
    )


def tasks(result: dict[str, Any]) -> str:
    """The demo's adapters against the baselines."""
    rows = [
        [
            name,
            f"{row['accuracy']:.3f}",
            *(f"{value:.3f}" for value in row["baselines"].values()),
            f"{row['trainable']:,} ({row['share']:.2%})",
            f"{row['seconds']:,.0f}",
            f"{row['bytes'] / 1e3:,.0f}",
        ]
        for name, row in result.items()
    ]
    first = next(iter(result.values()))
    head = ["task", "adapter", *first["baselines"], "trainable"]
    head += ["`fit`, s", "file, kB"]
    made = ", ".join(f"{k} {v}" for k, v in first["made_with"].items())
    return "\n\n".join(
        [
            "## Real tasks",
            "Accuracy on held-out texts of the adapters that come with the "
            f"demo, one run each, by `python -m app.ship`; {made}.",
            table(head, rows),
        ]
    )


def methods(result: dict[str, Any]) -> str:
    """Every method on two tasks."""
    names = dict.fromkeys(run.split("/")[0] for run in result["runs"])
    plans = "; ".join(
        f"*{name}*: {result['plans'][name]['texts'] or 'all'} training texts, "
        f"{result['plans'][name]['epochs']} epochs"
        for name in names
    )
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return "\n\n".join(
        [
            "## Methods",
            "The same base, texts, epochs and head for all; the learning rate "
            "of each is the one that does best in validation, at seed 0, among "
            "up to five. "
            f"{plans}. A mean is over as many seeds as the table says; `fit` "
            "is the median, of one core each with two runs at a time. "
            f"`python -m benchmarks.methods` on {result['machine']}; "
            f"{versions}; backend {result['backend']}.",
            tables(result["runs"]),
        ]
    )


def bank_on_tasks(result: dict[str, Any]) -> str:
    """The demo's adapters mixed in one bank."""
    rows = [
        [
            name,
            f"{row['texts']:,}",
            f"{row['largest_difference']:.1e}",
            f"{row['accuracy_alone']:.4f}",
            f"{row['accuracy_in_bank']:.4f}",
        ]
        for name, row in result["tasks"].items()
    ]
    head = ["task", "texts", "largest difference", "accuracy alone", "in bank"]
    return "\n\n".join(
        [
            "## Real tasks, mixed in one bank",
            "All test texts of the tasks, shuffled into the same batches of "
            "32, against each task's own model "
            "(`python -m benchmarks.bank_on_tasks --adapters app/adapters`).",
            table(head, rows),
        ]
    )


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


NEAR = 1e-4
"""What outputs may differ by beyond what the bases do."""


def peft_cell(cell: dict[str, Any], base: float) -> str:
    """Whether an adapter works, or why it is refused."""
    if "not made" in cell:
        return f"PEFT makes none: {cell['not made'].split(':')[0]}"
    if "refused" in cell:
        first = cell["refused"].split("\n")[0].removeprefix("- ")
        reason = re.sub(r"^[\w.]+: ", "", first)
        return "refused: " + re.split(r" is not supported| ?[:;,(]", reason)[0]
    if base > NEAR * 10:
        return "not told: the base differs"
    return "works" if cell["off"] < base + NEAR else f"off by {cell['off']:.0e}"


def peft_off(cell: dict[str, Any]) -> str:
    """The difference of outputs."""
    return f"{cell['off']:.0e}" if "off" in cell else "refused"


def peft_exchange(result: dict[str, Any]) -> str:
    """Adapters from torch and back."""
    read = {n: r for n, r in result["families"].items() if "base" in r}
    tried = read["llama"]["in"]
    options = sorted(tried, key=lambda kind: ("refused" in tried[kind], kind))
    figures = [
        [
            name,
            f"{row['base']:.0e}",
            *(peft_off(row["in"][kind]) for kind in ("LoRA", "DoRA")),
            *(peft_off(row["out"][kind]) for kind in ("LoRA", "DoRA")),
        ]
        for name, row in read.items()
    ]
    cells = [
        [name, *(peft_cell(row["in"][kind], row["base"]) for kind in options)]
        for name, row in read.items()
    ]
    unread = [
        f"{name}: KerasHub does not read its checkpoint "
        f"({row['not read by KerasHub']})."
        for name, row in result["families"].items()
        if "base" not in row
    ]
    columns = ["to Keras: LoRA", "DoRA", "to torch: LoRA", "DoRA"]
    return "\n\n".join(
        [
            "## Adapters from PEFT and back",
            "Tiny random checkpoints; adapters trained for a few steps in "
            "torch with PEFT and loaded by `load_peft`, and trained here, "
            "saved by `save_peft` and loaded by PEFT. The figures are the "
            "largest difference of logits (of hidden states for encoders) "
            "between the two; the adapters move them by 2 to 5. Bases may "
            "differ by themselves; the first column says by how much.",
            where(result, "python -m benchmarks.peft_exchange"),
            table(["family", "base alone", *columns], figures),
            "What loads of what PEFT can do, tried for each family:",
            "<!-- --8<-- [start:peft] -->",
            table(["family", *options], cells),
            "<!-- --8<-- [end:peft] -->",
            *unread,
        ]
    )


def peft_loading(result: dict[str, Any]) -> str:
    """A folder against a file."""
    rows = [
        [
            name,
            f"{row['weights'] / 1e6:.0f} million",
            spread(row["seconds"]["load_adapter"]),
            spread(row["seconds"]["load_peft"]),
            spread(row["ratio"]),
        ]
        for name, row in result["families"].items()
    ]
    head = ["base", "weights", "`load_adapter`, s", "`load_peft`, s", "ratio"]
    return "\n\n".join(
        [
            "## Loading a PEFT folder",
            "A LoRA on all linear layers, as a PEFT folder and as a file with "
            "the same content. A file's base is looked up by its fingerprint, "
            "a folder's is taken as it is given.",
            where(result, "python -m benchmarks.peft_loading"),
            table(head, rows),
        ]
    )


SECTIONS: dict[str, Callable[[Any], str]] = {
    "app/adapters/results.json": tasks,
    "benchmarks/results/methods.json": methods,
    "benchmarks/results/hyper_parameters.json": hyper_parameters,
    "benchmarks/results/computed_once.json": computed_once,
    "benchmarks/results/images.json": images,
    "benchmarks/results/all_tasks.json": all_tasks,
    "benchmarks/results/rematerialization.json": rematerialization,
    "benchmarks/results/bank_on_tasks.json": bank_on_tasks,
    "benchmarks/results/train_step.json": train_step,
    "benchmarks/results/scaling.json": scaling,
    "benchmarks/results/rewriting.json": rewriting,
    "benchmarks/results/inference.json": inference,
    "benchmarks/results/doors.json": doors,
    "benchmarks/results/serving.json": serving,
    "benchmarks/results/generation.json": generation,
    "benchmarks/results/server.json": server,
    "benchmarks/results/hostile_clients.json": hostile,
    "benchmarks/results/peft_exchange.json": peft_exchange,
    "benchmarks/results/peft_loading.json": peft_loading,
    "benchmarks/results/perplexity.json": perplexity,
    "benchmarks/results/language_memory.json": language_memory,
    "benchmarks/results/soak.json": soak,
    "benchmarks/results/two_sessions.json": two_sessions,
    "benchmarks/results/leaks.json": leaks,
    "benchmarks/results/fuzz.json": fuzz,
}
"""Where each section's figures are; one without its file is left out."""


def page() -> str:
    """The whole page; plots are written on the way."""
    parts = [HEAD.strip()]
    for name, section in SECTIONS.items():
        path = ROOT / name
        if path.is_file():
            parts.append(section(json.loads(path.read_text("utf-8"))))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
