"""Text from outside in Streamlit's Markdown, shown as it is written.

Titles, labels and bodies of Streamlit's elements are Markdown with additions:
links, images, math, colours, icons, arrows. Whatever did not come from the
app's own source goes through `literal` on its way into one.
"""

import re
from collections.abc import Iterable, Sequence

from app.serve.messages import visible

ACTIVE = re.compile(r"(?<=www)(?=\.)|[!-/:-@\[-`{-~]|^ | $|(?<= ) ", re.I)
"""ASCII's punctuation, and spaces that Markdown counts."""

JOINT = ":red[]"
"""Colours nothing; what stands on its two sides is never read as one."""


def literal(text: str) -> str:
    """Markdown that shows a text on one line, character for character.

    Written as a number, a character is no syntax. Links, icons and arrows are
    also looked for in what Markdown has read by then, so that joints part
    them too: a backslash is not enough.
    """
    return ACTIVE.sub(
        lambda found: (f"&#{ord(found[0])};" if found[0] else "") + JOINT,
        visible(text),
    )


def literal_lines(text: str) -> str:
    """The same for an error's lines; those that start with "- " are a list."""
    lines = [line for line in text.split("\n") if line.strip()]
    return "\n".join(
        f"- {literal(line[2:])}" if line.startswith("- ") else literal(line)
        for line in lines
    )


def literal_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], marked: int = -1
) -> str:
    """A Markdown table of such texts; one row of it may stand out."""
    lines = ["| " + " | ".join(map(literal, head)) + " |", "|---" * len(head)]
    for number, row in enumerate(rows):
        mark = "**" if number == marked else ""
        cells = [f"{mark}{literal(cell)}{mark}" for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def file_name(title: str) -> str:
    """A name to save an adapter under that every system takes."""
    stem = re.sub(r"[^\w.()]+", "-", title).strip("-.")
    return f"{stem or 'adapter'}.safetensors"
