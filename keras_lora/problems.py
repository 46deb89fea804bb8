"""One error that lists everything wrong at once."""

from collections.abc import Iterable


def refuse(action: str, problems: Iterable[str]) -> None:
    """Raises one `ValueError` for all `problems`, or returns if none.

    Args:
        action: What could not be done, e.g. `"inject: nothing was changed"`.
        problems: One sentence each.
    """
    found = list(problems)
    if found:
        raise ValueError("\n- ".join([f"{action}.", *found]))


def shorten(names: Iterable[str], most: int = 24) -> str:
    """A list of names for a message, cut after `most`."""
    found = list(names)
    text = ", ".join(found[:most]) or "none"
    rest = len(found) - most
    return f"{text}, and {rest} more" if rest > 0 else text
