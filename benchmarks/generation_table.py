"""What `benchmarks.generation` found, as Markdown."""

from typing import Any

from benchmarks.markdown import spread, table, where

BANK = "8 adapters, mixed"
LOOP = "8 adapters, one by one"


def generation(result: dict[str, Any]) -> str:
    """Mixed generation against the base, a loop and as many models."""
    return "\n\n".join(
        [
            "## Generating with 8 adapters in one call",
            "A GPT-2 of random weights adds 64 tokens to each of 8 prompts of "
            "16 tokens. The *base* is KerasHub's own `generate`, before the "
            "bank was made. *Mixed* is one call with an adapter for each row. "
            "*One by one* makes a call of one row for each adapter, on the "
            "same bank. The first call of each side compiles and is not in "
            "its time.",
            where(result, "python -m benchmarks.generation"),
            table(
                ["base", "side", "ms", "tokens per second", "over the base"],
                [
                    [
                        kind,
                        side,
                        f"{1000 * row['seconds'][1]:,.0f}",
                        f"{row['tokens_a_second']:,.0f}",
                        spread(row["over_base"]) if side != "base" else "",
                    ]
                    for kind, sides in result["speed"].items()
                    for side, row in sides.items()
                ],
            ),
            "The loop takes "
            + "; ".join(
                f"{spread(sides[LOOP]['over_mixed'])} x the mixed call {kind}"
                for kind, sides in result["speed"].items()
            )
            + ".",
            memory(result["memory"]),
        ]
    )


def memory(found: dict[str, Any]) -> str:
    """Peaks, and what 8 models take for one bank's megabyte."""
    models = found["8 merged models"]
    rows = [
        [
            side,
            f"{row['weights_mb']:,.0f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['grown_mb']:,.0f}",
            f"{row['grown_mb'] / models['grown_mb']:.2f}",
        ]
        for side, row in found.items()
    ]
    head = ["process", "weights MB", "peak MB", "above its start MB"]
    return (
        "Memory, on a base of 12 layers 768 wide. Each row is a process of "
        "its own that has answered for all 8 adapters. *Above its start* is "
        "its peak without what it took with Keras imported and no model.\n\n"
        + table([*head, "share of 8 models'"], rows)
    )
