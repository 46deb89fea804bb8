"""Adapters from PEFT and back, as Markdown."""

import re
from typing import Any

from benchmarks.markdown import spread, table, where

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
            "On tiny random checkpoints, adapters are trained for a few steps "
            "in torch with PEFT and loaded by `load_peft`; others are trained "
            "here, saved by `save_peft` and loaded by PEFT. A figure is the "
            "largest difference between the two, of logits or of an encoder's "
            "hidden states. The adapters move them by 2 to 5. Bases may "
            "differ by themselves, and the first column says by how much.",
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
            "the same content. A file's base is known by its fingerprint, "
            "which takes time; a folder's base is taken as it is given. The "
            "*ratio* is the folder's time over the file's.",
            where(result, "python -m benchmarks.peft_loading"),
            table(head, rows),
        ]
    )
