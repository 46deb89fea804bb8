"""The documentation's pages, as the demo can show them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs"

SHOWN = (
    "explanation/lora-and-adapters.md",
    "tutorial.md",
    "how-to/targets-and-rank.md",
    "how-to/your-own-model.md",
    "how-to/many-adapters.md",
    "explanation/what-a-bank-costs.md",
    "explanation/in-place.md",
    "explanation/safety.md",
    "comparison.md",
)


def pages(folder: Path = FOLDER) -> dict[str, Path]:
    """The pages that are there, by their heading."""
    found = {}
    for name in SHOWN:
        path = folder / name
        if path.is_file():
            first = path.read_text("utf-8").partition("\n")[0]
            found[first.lstrip("# ")] = path
    return found


def text_of(path: Path) -> str:
    """A page without what only the site can show: drawings, links inside."""
    text = path.read_text("utf-8").partition("\n")[2]
    text = re.sub(r"^--8<-- .*$", "", text, flags=re.M)
    return re.sub(r"\[([^\]]+)\]\([\w./-]+\.md[^)]*\)", r"\1", text)


def drawing(name: str, folder: Path = FOLDER) -> str:
    """One of the documentation's drawings, as SVG.

    As an image it knows nothing of the page's theme: its lines take a grey
    that can be seen on both.
    """
    svg = (folder / "assets" / f"{name}.svg").read_text("utf-8")
    return svg.replace("currentColor", "#718096").replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )
