"""What keeps a setting from being valid, in a sentence each."""

import numbers
import re
import sys
from collections.abc import Iterable
from typing import Any

LONG = "more than 64 bits"
"""Python writes out no int of some thousand digits."""


def is_int(value: Any) -> bool:
    """Whether a value is a whole number, Python's or NumPy's."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, Python's or NumPy's."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    # A huge int is no float, and NumPy's numbers are not compared with one.
    number = value if isinstance(value, int) else float(value)
    return abs(number) <= sys.float_info.max


def positive_int(name: str, value: Any, most: int | None = None) -> list[str]:
    """Says what keeps `value` from being an int above 0, and at most `most`."""
    if is_int(value) and value > 0 and (most is None or value <= most):
        return []
    wanted = "an int above 0" if most is None else f"an int from 1 to {most:,}"
    if is_int(value) and abs(value) > sys.maxsize:
        return [f"`{name}` must be {wanted}. Received: one of {LONG}"]
    return [f"`{name}` must be {wanted}. Received: {name}={value!r}"]


def positive_number(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a finite number above 0."""
    if is_number(value) and value > 0:
        return []
    return [
        f"`{name}` must be a finite number above 0. Received: {name}={value!r}"
    ]


def share(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a dropout rate."""
    if is_number(value) and 0 <= value < 1:
        return []
    return [f"`{name}` must be in [0, 1). Received: {name}={value!r}"]


def wrong_targets(targets: Any, name: str = "targets") -> list[str]:
    """Says what keeps `targets` from being names or a regular expression."""
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            return [f"`{name}` is no regular expression ({error}): {targets!r}"]
        return []
    if (
        isinstance(targets, list | tuple)
        and targets
        and all(isinstance(entry, str) and entry for entry in targets)
    ):
        return []
    return [
        f"`{name}` must be a string or a list of layer names, and not empty. "
        f"Received: {name}={targets!r}"
    ]


def wrong_choice(name: str, value: Any, choices: Iterable[str]) -> list[str]:
    """Says whether `value` is none of some names."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return []
    listed = ", ".join(map(repr, known))
    return [f"`{name}` must be one of {listed}. Received: {name}={value!r}"]


def wrong_layers(layers: Any) -> list[str]:
    """Says what keeps `layers` from being numbers of blocks."""
    if layers is None or isinstance(layers, slice):
        return []
    if (
        isinstance(layers, list | tuple | range)
        and len(layers)
        and all(map(is_int, layers))
    ):
        return []
    return [
        "`layers` must be a slice, a range or a list of ints, and not empty. "
        f"Received: layers={layers!r}"
    ]
