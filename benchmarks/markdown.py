"""What the pages of results are made of."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs/assets"


def spread(values: list[float], digits: int = 2) -> str:
    """A median with its quartiles."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: dict[str, Any], command: str) -> str:
    """The command, the machine, the versions and the settings."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items())
    return (
        f"`{command}` on {result['machine']}; {versions}; backend "
        f"{result['backend']}; {settings}."
    )
