"""What the pages of results are made of."""

import re
from pathlib import Path
from typing import Any

SPACE = "\N{NO-BREAK SPACE}"
FIGURE = re.compile(r"$|\W*\d|never$|none$")
"""What a cell of a column of figures begins with, where it holds anything."""
ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs/assets"


def spread(values: list[float], digits: int = 2) -> str:
    """A median with its quartiles; the brackets stay on one line."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low}{SPACE}to{SPACE}{high})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns of figures are aligned to the right."""
    rules = [
        "---:"
        if number and all(FIGURE.match(row[number]) for row in rows)
        else "---"
        for number in range(len(head))
    ]
    lines = [head, rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: dict[str, Any], command: str) -> str:
    """The command, the machine, the versions and the settings."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items())
    return (
        f"`{command}` on {result['machine']}; {versions}; backend "
        f"{result['backend']}; {settings}."
    )
