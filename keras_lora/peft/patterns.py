"""Patterns in a stranger's config: which of them names a module.

They are regular expressions, and one can be written to take for ever. Those
that could are refused; names, which most are, are compared as such.
"""

import re
from collections.abc import Mapping
from typing import Any

from keras_lora.errors import LONGEST

MOST_EXPRESSIONS = 32
LONGEST_NAME = 300
ESCAPED = re.compile(r"\\([.\-_])")
NAME = re.compile(r"[\w.\-]+")
QUANTIFIED_GROUP = re.compile(r"\)[*+{]")


def as_name(pattern: str) -> str | None:
    """The name that a pattern is, if it is one."""
    name = ESCAPED.sub(r"\1", pattern)
    return name if NAME.fullmatch(name) else None


def is_costly(pattern: str) -> bool:
    """Whether matching a pattern may take time beyond its length's square."""
    quantifiers = len(re.findall(r"[*+{?]", pattern.replace("(?:", "(")))
    return (
        len(pattern) > LONGEST_NAME
        or quantifiers > 2
        or pattern.count("(") > 3
        or QUANTIFIED_GROUP.search(pattern) is not None
    )


def wrong_patterns(called: str, patterns: Any) -> list[str]:
    """Says which keys of a dict of patterns cannot be used."""
    problems = []
    expressions = [key for key in patterns if as_name(key) is None]
    if len(expressions) > MOST_EXPRESSIONS:
        problems.append(
            f"{called} has {len(expressions)} regular expressions, over "
            f"{MOST_EXPRESSIONS}"
        )
    for key in expressions[:MOST_EXPRESSIONS]:
        if is_costly(key):
            problems.append(
                f"{called}: {key[:LONGEST]!r} could take for ever to match; "
                "write the names out"
            )
            continue
        try:
            re.compile(key)
        except (re.error, OverflowError, RecursionError) as error:
            problems.append(f"{called}: {key!r} is no pattern ({error})")
    return problems


class Patterns:
    """Values by pattern; the first one that names a module counts.

    A pattern names a module that it matches, or whose end it matches after a
    dot.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = list(values.values())
        self._names: dict[str, int] = {}
        self._expressions: list[tuple[int, re.Pattern[str]]] = []
        for number, key in enumerate(values):
            name = as_name(key)
            if name is None:
                expression = re.compile(rf"(.*\.)?({key})$")
                self._expressions.append((number, expression))
            else:
                self._names.setdefault(name, number)

    def first(self, module: str, default: Any) -> Any:
        """The value of the first pattern that names a module."""
        parts = module.split(".")
        ends = (".".join(parts[n:]) for n in range(len(parts)))
        found = [self._names[end] for end in ends if end in self._names]
        found += [n for n, key in self._expressions if key.match(module)]
        return self._values[min(found)] if found else default
