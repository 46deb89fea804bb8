"""What keeps a setting from being valid, in a sentence each."""

import re
import sys
from collections.abc import Iterable
from typing import Any


def positive_int(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being an int above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return [f"`{name}` must be an int above 0. Received: {name}={value!r}"]
    return []


def positive_number(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        return [
            f"`{name}` must be a finite number above 0. "
            f"Received: {name}={value!r}"
        ]
    return []


def share(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a dropout rate."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        return [f"`{name}` must be in [0, 1). Received: {name}={value!r}"]
    return []


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
        and all(isinstance(n, int) and type(n) is not bool for n in layers)
    ):
        return []
    return [
        "`layers` must be a slice, a range or a list of ints, and not empty. "
        f"Received: layers={layers!r}"
    ]
