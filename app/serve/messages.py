"""Words of strangers and of errors, made fit to be shown to a visitor."""

import sys
import tempfile
import unicodedata
from pathlib import Path

from app.texts.fetch import cache_dir

JOINERS = "\u200c\u200d"
"""Invisible, but part of how Persian, Hindi or an emoji is written."""

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's controls, turns of direction, halves of pairs, line ends."""


def visible(text: str) -> str:
    """A text on one line; what a reader could not see is written out.

    Control codes and marks that turn the direction of reading would make a
    text look like another one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in UNSEEN and c not in JOINERS
        else c
        for c in text
    )


def message_of(error: BaseException) -> str:
    """What an error says, without the server's folders."""
    text = str(error) or type(error).__name__
    folders = {
        Path(__file__).parents[2]: "the demo",
        cache_dir(): "the cache",
        Path(tempfile.gettempdir()): "the temporary folder",
        Path(sys.prefix): "Python",
        Path.home(): "home",
    }
    # The longest first: one may lie in another.
    for folder in sorted(folders, key=lambda path: -len(str(path))):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), folders[folder])
    return text
