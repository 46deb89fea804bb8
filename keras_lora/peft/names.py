"""Which of the modules that are known a name in a folder means."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_lora.model.paths import Layers

WRAPPER = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""


class Known:
    """Names that a converter gives, and those of a torch class for the same.

    Torch classes differ in what they put before a name: `encoder.layer.0` is
    `bert.encoder.layer.0` in a classifier.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._ending: dict[str, list[str]] = {}
        for name in self._names:
            for end in endings(name):
                self._ending.setdefault(end, []).append(name)

    def find(self, name: str) -> str | None:
        """The known name that a name means, if there is just one.

        It is equal, or one is the end of the other, or they end alike and
        the rest of one is within the other's. Numbers are never left out.
        """
        for end in endings(name):
            found = self._ending.get(end, [])
            if end in found and not numbered(name.removesuffix(end)):
                return end
            near = [n for n in found if are_near(n, name)]
            if near:
                return near[0] if len(near) == 1 else None
        return None


def endings(name: str) -> list[str]:
    """A dotted name and its ends, the longest first."""
    parts = name.split(".")
    return [".".join(parts[n:]) for n in range(len(parts))]


def numbered(name: str) -> bool:
    """Whether any part of a dotted name is a number."""
    return any(part.isdecimal() for part in name.split("."))


def are_near(one: str, other: str) -> bool:
    """Whether names end alike and differ in wrappers only."""
    left, right = one.split("."), other.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    if numbered(".".join(left + right)):
        return False
    return set(left) <= set(right) or set(right) <= set(left)


class Named:
    """Paths that a caller gives for modules: an expression and a template."""

    def __init__(self, names: Mapping[str, Any] | None) -> None:
        self._rules = [
            (
                re.compile(rf"(?:.*\.)?(?:{expression})$"),
                [template] if isinstance(template, str) else list(template),
            )
            for expression, template in (names or {}).items()
        ]

    def paths(self, module: str) -> list[str]:
        """What the first expression that matches a module makes of it."""
        for expression, templates in self._rules:
            match = expression.match(module)
            if match:
                return [match.expand(template) for template in templates]
        return []


def wrong_names(names: Any) -> list[str]:
    """Says what keeps `names` from being expressions and templates."""
    if names is None:
        return []
    if not isinstance(names, Mapping):
        return [f"`names` must be a dict. Received: names={names!r}"]
    problems = []
    for expression, template in names.items():
        templates = [template] if isinstance(template, str) else template
        if not isinstance(expression, str) or not (
            isinstance(templates, list | tuple)
            and templates
            and all(isinstance(entry, str) for entry in templates)
        ):
            problems.append(
                "`names` must have a regular expression, and a template or a "
                f"list of them. Received: {expression!r}: {template!r}"
            )
            continue
        try:
            for entry in templates:  # `|`: it has something to fill in
                re.sub(f"{expression}|", entry, "", count=1)
        except (re.error, IndexError) as error:
            problems.append(f"`names`: {expression!r}: {template!r}: {error}")
    return problems


def layer_at(layers: Layers, path: str) -> str | None:
    """The path of a layer that a path, or the end of one, means."""
    if path in layers:
        return path
    found = [p for p in layers if p.endswith("/" + path)]
    return found[0] if len(found) == 1 else None
