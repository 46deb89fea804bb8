"""One error that lists everything wrong at once."""

import re
from collections.abc import Iterable

MOST = 100
LONGEST = 2000
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def raise_if(action: str, problems: Iterable[str]) -> None:
    """Raises one `ValueError` for all `problems`, or returns if none.

    Problems may quote a stranger's file: what a terminal would obey is
    written out, and no file makes a message without end.

    Args:
        action: What could not be done, e.g. `"inject: nothing was changed"`.
        problems: One sentence each.
    """
    found = list(problems)
    if not found:
        return
    lines = [printable(text)[:LONGEST] for text in found[:MOST]]
    if len(found) > MOST:
        lines.append(f"and {len(found) - MOST} more")
    raise ValueError("\n- ".join([f"{printable(action)}.", *lines]))


def printable(text: str) -> str:
    """A text of one or more lines in which control codes are written out."""
    text = COLOUR.sub("", text)
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c == "\n"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def shorten(names: Iterable[str], most: int = 24) -> str:
    """A list of names for a message, cut after `most`."""
    found = list(names)
    text = ", ".join(found[:most]) or "none"
    rest = len(found) - most
    return f"{text}, and {rest} more" if rest > 0 else text
