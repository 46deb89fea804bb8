"""The table of all tasks about the same texts."""

from typing import Any

from benchmarks.markdown import spread, table, where


def all_tasks(result: dict[str, Any]) -> str:
    """Five adapters about the same rows, against a pass of the base."""
    rows = [
        [
            f"{rows} {'text' if rows == '1' else 'texts'}: "
            + side.replace("a call each", "one call for each task"),
            spread(row["milliseconds"], 1),
            spread(row["over_base"]) if side != "the base" else "",
        ]
        for rows, sides in result["rows"].items()
        for side, row in sides.items()
    ]
    return "\n\n".join(
        [
            "## One text, all tasks",
            "Five tasks about the same texts by `bank.predict_all`, beside one "
            "pass of the bare base. The last side asks `predict` once "
            "for each task instead. *Ladders* share the whole "
            "pass of the base, LoRA in the last 2 blocks shares what comes "
            "before them, and LoRA in all blocks shares nothing. The encoder "
            "has random weights.",
            where(result, "python -m benchmarks.all_tasks"),
            table(["side", "ms", "over a pass of the base"], rows),
        ]
    )
