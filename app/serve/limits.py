"""What visitors of the demo may hand in, and what is said when it is wrong."""

from collections.abc import Iterable, Sequence
from typing import Any

from keras_lora.errors import raise_if, shorten

MAX_CHARACTERS = 5_000
"""Of one text. The base reads the first 128 tokens, some 600 characters."""

MAX_ROWS = 32
"""Of a mixed batch."""

MAX_RANK = 16
MAX_BOTTLENECK = 64
LADDER_WIDTHS = (32, 48, 64)
LADDER_HEADS = 4
MAX_CLASSES = 20

MAX_GUESTS = 40
"""Adapters of all visitors together."""

MAX_GUEST_BYTES = 100_000_000
"""Of those files; the bank takes about as much memory again."""

MAX_UPLOAD_MEGABYTES = 8
"""What the file dialogs take; `.streamlit/config.toml` says the same."""

MAX_FILE_BYTES = MAX_UPLOAD_MEGABYTES << 20
"""The same: of a CSV or an adapter. The dialogs count in powers of two."""


def text_problem(text: Any) -> str | None:
    """What is wrong with a text, or None."""
    if not isinstance(text, str) or not text.strip():
        return "the text is empty: write one, or pick an example"
    if len(text) > MAX_CHARACTERS:
        return (
            f"the text has {len(text):,} characters; "
            f"at most {MAX_CHARACTERS:,} are taken"
        )
    return None


def row_problems(
    rows: Sequence[tuple[Any, Any]], names: Iterable[str]
) -> list[str]:
    """What is wrong with a mixed batch's rows of (text, adapter)."""
    known = set(names)
    if not rows:
        return ["the table is empty: add a row"]
    if len(rows) > MAX_ROWS:
        return [f"there are {len(rows):,} rows; at most {MAX_ROWS} are taken"]
    problems = []
    for number, (text, name) in enumerate(rows, 1):
        if problem := text_problem(text):
            problems.append(f"row {number}: {problem}")
        if name not in known:
            problems.append(f"row {number}: pick a task")
    return problems


def adapter_problems(
    info: Any,
    low_rank: Iterable[str],
    bottlenecks: Iterable[str],
    blocks: Iterable[str],
) -> list[str]:
    """What of an adapter the demo does not serve, from its header alone.

    The bank is made once for these sizes; a larger adapter would make it
    trace its functions again while others wait.

    Args:
        info: a `keras_lora.AdapterInfo`.
        low_rank: the base's layers that LoRA may sit on.
        bottlenecks: those that bottlenecks may sit on.
        blocks: those that a ladder may stand beside.
    """
    problems = []
    if info.head is None:
        problems.append("it holds no head, so it cannot tell classes apart")
    if info.trained:
        problems.append(
            f"it trained layers of the base: {shorten(info.trained, 3)}; the "
            "base is shared here"
        )
    places = {
        "lora": set(low_rank),
        "bottleneck": set(bottlenecks),
        "side": set(blocks),
    }
    unserved = set(info.methods) - set(places)
    if unserved:
        problems.append(
            f"its method, {' and '.join(sorted(unserved))}, is not served "
            "here: LoRA, bottlenecks and ladders are"
        )
    elsewhere = [
        path
        for path, settings in info.layers.items()
        if path not in places.get(settings["method"], {path})
    ]
    if elsewhere:
        problems.append(
            "it sits on layers that no adapter here may sit on: "
            + shorten(sorted(elsewhere), 3)
        )
    ranks, widths, ladders = inner_sizes(info)
    if wrong := ladders - set(LADDER_WIDTHS):
        problems.append(
            f"its ladder is {max(wrong)} wide; "
            f"{', '.join(map(str, LADDER_WIDTHS))} are served"
        )
    if any(
        settings.get("heads", LADDER_HEADS) != LADDER_HEADS
        for settings in info.layers.values()
    ):
        problems.append(
            f"its ladder has other than {LADDER_HEADS} heads; those are served"
        )
    if max(ranks, default=0) > MAX_RANK:
        problems.append(
            f"its rank is {max(ranks)}; at most {MAX_RANK} is served"
        )
    if max(widths, default=0) > MAX_BOTTLENECK:
        problems.append(
            f"its bottleneck is {max(widths)}; at most {MAX_BOTTLENECK} is "
            "served"
        )
    if any(
        settings.get("layer_norm")
        or settings.get("activation", "relu") != "relu"
        for settings in info.layers.values()
    ):
        problems.append(
            "its bottlenecks have another activation than relu, or a layer "
            "norm; plain ones are served"
        )
    return problems


def inner_sizes(info: Any) -> tuple[set[int], set[int], set[int]]:
    """The ranks, the widths of bottlenecks and of ladders, from a header."""
    ranks, widths, ladders = set(), set(), set()
    for path, settings in info.layers.items():
        if settings["method"] == "lora":
            ranks.add(settings["rank"])
        elif settings["method"] == "side":
            ladders.add(settings["width"])
        elif f"{path}/down_kernel" in info.tensors:
            widths.add(info.tensors[f"{path}/down_kernel"][1][-1])
    return ranks, widths, ladders


def check_text(text: Any) -> None:
    """Raises a `ValueError` where a text cannot be answered."""
    if problem := text_problem(text):
        raise_if("Nothing was asked", [problem])
