"""Text from outside that Streamlit's Markdown would act on."""

import html
import json
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.app.tiny import adapter

KINDS = ("[x](//evil)", "![](//evil/p.png)", "$x$", "<b>", ":red[x]")
ALL = " ".join(KINDS)

FILE_NAME = "[x](y) ![](p.png) $x$ <b> :red[x]"
"""As a file's name, which holds no "/"."""

LABELS = ("![](//evil/p.png)", "[x](//evil) $x$ <b> :red[x]")
"""As two labels of a CSV, in alphabetical order."""

MORE = (
    ":material/home: :material_home: :streamlit: :smile: :help[y] ::red[x]",
    "http://evil.com/x www.evil.com WWW.evil.com me@evil.com <https://evil>",
    "-> <- <-> -- >= <= ~= a->b",
    "_a_ *b* ~c~ `d` **e** ~~f~~ \\[x](//evil) \\",
    "# head",
    "- item",
    "1. one",
    "> quote",
    "    code",
    "```x",
    "***",
    "===",
    "a | b",
    "[a]: //evil",
    "$$x$$ [^1] ![x][y] &amp; &#60; <!-- x -->",
    "  two  spaces ",
)


def read(markdown):
    """What Markdown that holds literal text shows of it."""
    return html.unescape(markdown.replace(":red[]", ""))


def csv_of(labels=LABELS, header="text,label", rows=80):
    """Texts that a word tells apart, with these labels."""
    words = ("dull weak poor", "bright strong fine")
    lines = [
        f"{words[row % 2]} {ALL} {row},{labels[row % len(labels)]}"
        for row in range(rows)
    ]
    return "\n".join([header, *lines]).encode()


def of_a_strange_class(path: Path) -> bytes:
    """An adapter whose head names a class that there is not."""
    adapter(path)
    with safe_open(path, "numpy") as file:
        metadata = dict(file.metadata())
    (key,) = metadata
    record = json.loads(metadata[key])
    record["head"]["layers"][0]["class"] = ALL
    save_file(load_file(path), path, {key: json.dumps(record)})
    return path.read_bytes()
