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
            "A GPT-2 of random weights adds 64 tokens to prompts of 16, for 8 "
            "rows. The *base* is KerasHub's own `generate`, before the bank "
            "was made. *One by one* is a call for each adapter, of one row, "
            "on the same bank. The first call of each side, which compiles, "
            "is not in its time.",
            where(result, "python -m benchmarks.generation"),
            table(
                ["base", "side", "ms", "tokens a second", "over the base"],
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
        "Peak memory of processes of their own, each after it has answered "
        "for all 8 adapters; its start is what it took with Keras imported "
        "and no model. The base of this table has 12 layers 768 wide.\n\n"
        + table([*head, "share of 8 models'"], rows)
    )
