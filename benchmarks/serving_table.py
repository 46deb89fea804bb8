"""A bank against its base, and against swapping, as Markdown."""

from typing import Any

from benchmarks.markdown import spread, table, where


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
        "All adapters are resident: each has a slot of its own. In a mixed "
        "batch each row has its own adapter. A *switch* enters and leaves "
        "`using`, *load* reads and checks a file, and *bring in* writes an "
        "adapter into a slot. *Host bytes* and *slot bytes* are what an "
        "adapter takes in memory and in its slot, over the bytes of its "
        "tensors; *padding* is what of a slot it does not fill.",
        where(result, "python -m benchmarks.serving"),
        table(head, rows),
    ]
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
            f" It answers {spread(row['over_all_resident'])} times as many as "
            "a bank in which all of them have a slot."
        )
    return (
        f"With {row['loaded']:,} adapters loaded over {row['capacity']} slots "
        "and a skewed choice of names (popularity falls as the rank to the "
        f"power 1.2), the bank answers {row['requests_a_second']:.0f} "
        f"requests per second. {row['hit_rate']:.0%} of the adapters asked for "
        "had a slot at that time: the *hit rate*." + beside
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
