"""No text reaches Streamlit's Markdown but as it is written in the source.

A text that the source of a page does not spell out goes through `literal`;
this reads the sources, so that a new place cannot be forgotten.
"""

import ast
import re
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent
FILES = [
    ROOT / "streamlit_app.py",
    *sorted((ROOT / "app_pages").glob("*.py")),
    *sorted((ROOT / "views").glob("*.py")),
]
SINKS = re.compile(
    "badge|button|caption|checkbox|download_button|error|expander|feedback|"
    "file_uploader|header|info|link_button|markdown|metric|multiselect|"
    "number_input|page_link|pills|popover|progress|radio|segmented_control|"
    "select_slider|selectbox|slider|spinner|status|subheader|success|tabs|"
    "text_area|text_input|title|toast|toggle|warning|write"
)
TEXTS = {"body", "title", "label", "help", "text", "delta", "format_func"}
OPTIONS = {"pills", "radio", "segmented_control"}
"""Their options are Markdown too; those of the others are plain text."""
FIRST = {"metric": 2, "progress": 0}
"""How many of the first arguments are Markdown, where it is not one."""
OWN = {"literal", "literal_lines", "duration", "difference", "text_of"}
OWN |= {"literal_table", "faster", "interval", "number", "plural", "rightness"}
"""Functions whose results may be shown: literal text, and the app's own."""


def strange(node):
    """The parts of an expression that are no text of the source."""
    match node:
        case ast.Constant() | ast.FormattedValue(format_spec=ast.JoinedStr()):
            return []
        case ast.JoinedStr(values=parts):
            return [found for part in parts for found in strange(part)]
        case ast.FormattedValue(value=value) | ast.Lambda(body=value):
            return strange(value)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name.isupper():
            return []
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if (
            name in OWN
        ):
            return []
        case (
            ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other)
        ):
            return strange(one) + strange(other)
        # A table of the source: {"lora": "LoRA"}.get
        case ast.Attribute(attr="get", value=ast.Dict(values=parts)):
            return [found for part in parts for found in strange(part)]
    return [ast.unparse(node)]


def findings(source):
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=sink)) if SINKS.fullmatch(
                sink
            ):
                given = node.args[: FIRST.get(sink, 1)]
                for keyword in node.keywords:
                    options = keyword.arg == "format_func"
                    if keyword.arg in TEXTS and (
                        sink in OPTIONS or not options
                    ):
                        given.append(keyword.value)
                found += [
                    f"{sink}: {x}" for part in given for x in strange(part)
                ]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_a_page_shows_is_literal_or_its_own(file):
    assert findings(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('st.error(f"no {name}")', ["error: name"]),
        ("st.info(error)", ["info: error"]),
        ('left.metric("a", value)', ["metric: value"]),
        ('st.pills("a", x, format_func=lambda x: x.y)', ["pills: x.y"]),
        ('st.warning("a", title=served.title)', ["warning: served.title"]),
        ('st.caption(f"{literal(name)} {count:d} {MOST}")', []),
        ('st.selectbox("a", titles, format_func=title_of)', []),
    ],
)
def test_the_reader_finds_what_is_not(source, found):
    assert findings(source) == found
