"""What the doors and predictions cost, as Markdown."""

from typing import Any

from benchmarks.markdown import spread, table, where


def doors(result: dict[str, Any]) -> str:
    """Each door against its floor, beside the code of before where it ran."""
    sides = next(iter(result["bases"].values()))["sides"]
    rows = []
    for kind, found in result["bases"].items():
        millions = f"{found['weights'] / 1e6:.0f} million"
        for name in found["sides"]["now"]["seconds"]:
            row = [f"{kind}, {millions}: {name}"]
            for side in sides:
                figures = found["sides"][side]
                ratio = figures["ratio"].get(name)
                row.append(spread(figures["seconds"][name]))
                row.append(spread(ratio, 1) if ratio else "")
            rows.append(row)
    head = ["base: what"]
    for side in sides:
        head += [f"{side}, s", "over its floor"]
    return "\n\n".join(
        [
            "## Attach, save and load",
            "What it takes to `inject`, to save, to load and to make a bank of "
            "a large base. *Alike* is a base that is adapted as the file is; "
            "the next row is a plain one. Each is held against a floor, below "
            "which it can hardly go. For the first four that is `hash`: a "
            "fingerprint has to read all values of the base, and this is "
            "BLAKE2b over them in one thread. For a bank it is the first "
            "prediction of a new model over the base: one trace and one run.",
            where(result, "python -m benchmarks.doors"),
            table(head, rows),
        ]
    )


def inference(result: dict[str, Any]) -> str:
    """Predictions of an adapted model against its base's."""
    rows = [
        [
            f"`{name}`",
            *(spread(row["milliseconds"][s], 0) for s in ("base", "adapted")),
            spread(row["ratio"]),
        ]
        for name, row in result["calls"].items()
    ]
    return "\n\n".join(
        [
            "## Predictions of an adapted model",
            "A compiled encoder with random weights, plain and with adapters "
            "on all linear layers. The adapters are neither merged nor in a "
            "bank.",
            where(result, "python -m benchmarks.inference"),
            table(["call", "base, ms", "adapted, ms", "ratio"], rows),
        ]
    )
