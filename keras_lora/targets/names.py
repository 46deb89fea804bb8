"""How names, patterns and regular expressions match structural paths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Targets = str | Sequence[str]
ALL_LINEAR = "all-linear"


def matches(entry: str, path: str) -> bool:
    """Whether a list's entry names the layer at `path`."""
    return path == entry or path.endswith("/" + entry)


def pattern_matches(key: str, path: str) -> bool:
    """Whether a pattern's key matches `path` or the end of it."""
    return re.fullmatch(f"(?:.*/)?(?:{key})", path) is not None


def first_match(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value of the first key of `pattern` that matches `path`."""
    for key, value in pattern.items():
        if pattern_matches(key, path):
            return value
    return default


def select(
    targets: Targets, paths: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Matches names or a regular expression against layer paths.

    Returns:
        The paths that match, in their order, and the entries that match none.
    """
    paths = list(paths)
    if isinstance(targets, str):
        found = [path for path in paths if re.fullmatch(targets, path)]
        return found, [] if found else [targets]
    chosen = {
        entry: {path for path in paths if matches(entry, path)}
        for entry in targets
    }
    union = set().union(*chosen.values())
    found = [path for path in paths if path in union]
    return found, [entry for entry, hit in chosen.items() if not hit]
