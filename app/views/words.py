"""Figures in words that do not promise more than they hold."""

from scipy.stats import binomtest

FEW = 100
"""Texts below which a share is told as a count, with a warning."""

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")


def number(count: int) -> str:
    """A small count at the start of a sentence: "Five"."""
    return NUMBERS[count] if count < len(NUMBERS) else f"{count:,}"


def plural(count: int, word: str) -> str:
    """ "1 text", "2 texts"."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def rightness(right: int, count: int) -> str:
    """ "6 of 6" of few texts, "87.1%" of many."""
    return f"{right} of {count}" if count < FEW else f"{right / count:.1%}"


def interval(right: int, count: int) -> str:
    """Where the share of right answers lies, by Wilson's interval."""
    ends = binomtest(right, count).proportion_ci(method="wilson")
    return f"{ends.low:.0%} to {ends.high:.0%}"


def faster(one_ms: float, other_ms: float) -> str:
    """How the first way compares with the second, as a headline."""
    ratio = other_ms / one_ms
    if ratio >= 1.05:
        return f"{ratio:.1f} times as fast: {one_ms:.0f} ms for {other_ms:.0f}"
    if ratio > 0.95:
        return f"As fast: {one_ms:.0f} ms, and {other_ms:.0f}"
    return f"Slower here: {one_ms:.0f} ms, where it took {other_ms:.0f}"
