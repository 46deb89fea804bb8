"""Text from outside is shown as it is written, at every place that shows it.

Streamlit's test driver gives what goes to the browser; that the browser then
shows it is in tests/browser/test_outside.py.
"""

import pytest

from app.serve.messages import message_of, visible
from app.texts.fetch import cache_dir
from app.views.literal import file_name, literal, literal_lines
from tests.app.driving import (
    errors,
    fine,
    open_page,
    train_own,
    upload,
    wait_for_run,
)
from tests.app.outside import (
    ALL,
    FILE_NAME,
    KINDS,
    LABELS,
    MORE,
    csv_of,
    of_a_strange_class,
    read,
)
from tests.app.tiny import adapter

pages = pytest.mark.usefixtures("tiny_demo", "own_shelf")

MARKDOWN = {"body", "title", "label", "help", "content", "text", "delta"}
"""Fields of Streamlit's messages that the browser reads as Markdown."""


def markdown_of(app):
    """All that a page hands to the browser as Markdown."""
    found = []

    def walk(message):
        for field, value in message.ListFields():
            values = value if field.is_repeated else [value]
            if field.message_type and not field.message_type.has_options:
                for part in values:
                    walk(part)
            elif field.name in MARKDOWN:
                found.extend(map(str, values))

    def descend(block):
        for child in block.children.values():
            if hasattr(child, "children"):
                descend(child)
            elif hasattr(child, "proto"):
                walk(child.proto)

    descend(app.main)
    return found


def shown(app, text):
    """The page shows a text, and nothing of it is Markdown."""
    texts = markdown_of(app)
    assert any(text in read(markdown) for markdown in texts), texts
    for markdown in texts:
        acting = [kind for kind in (*KINDS, FILE_NAME) if kind in markdown]
        assert not acting, markdown
    return app


@pages
def test_the_task_in_the_address():
    shown(open_page(task=ALL), ALL)


def ask_own(app, shelves):
    """The page Switch with the visitor's own adapter picked."""
    app.switch_page("app_pages/switch.py").run()
    (served,) = shelves[0].adapters
    return fine(app.pills(key="task").select(served.name).run())


@pages
def test_an_adapter_s_title_and_labels(own_shelf, tmp_path):
    data = adapter(tmp_path / "a.safetensors").read_bytes()
    labels = f"{ALL} 1, {ALL} 2"
    app = open_page("adapters")
    fine(app.text_input(key="adapter-labels").set_value(labels).run())
    upload(app, data, f"{FILE_NAME}.safetensors")
    shown(app, f"“{FILE_NAME}” is in the bank")
    table = app.dataframe[0].value.iloc[-1]
    assert (table["adapter"], table["labels"]) == (FILE_NAME, labels)
    ask_own(app, own_shelf)
    shown(app, FILE_NAME)
    shown(app, f"## {ALL} ")
    assert app.query_params["task"] == FILE_NAME


@pages
@pytest.mark.parametrize("name", ["mine", FILE_NAME])
def test_a_refused_adapter(tmp_path, name):
    data = of_a_strange_class(tmp_path / "a.safetensors")
    app = upload(open_page("adapters"), data, f"{name}.safetensors")
    shown(app, ALL)
    assert name in errors(app)


@pages
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (csv_of(header=ALL), ALL[:30]),
        (csv_of(LABELS[:1]), LABELS[0]),
        (csv_of(["a"] * 12 + [LABELS[0]]), LABELS[0]),
        (b"\x80\x04\x95pickle", "no text file"),
    ],
)
def test_a_refused_csv(few_texts, data, text):
    app = train_own(open_page("train"), data, f"{FILE_NAME}.csv")
    shown(app, text)
    assert text == LABELS[0] or FILE_NAME in errors(app)


@pages
@pytest.mark.extra
def test_what_was_trained_on_a_csv(own_shelf, few_texts):
    app = train_own(open_page("train"), csv_of(), f"{FILE_NAME}.csv")
    fine(app.slider(key="rank").set_value(2).run())
    fine(app.button(key="start").click().run())
    shown(wait_for_run(app), f"Trained: {FILE_NAME}")
    fine(app.button(key="add").click().run())
    shown(app, f"“{FILE_NAME} (own)” can now")
    ask_own(app, own_shelf)
    shown(app, f"{FILE_NAME} (own)"[:40])
    verdict = next(m.value for m in app.markdown if m.value[:3] == "## ")
    assert read(verdict).removeprefix("## ").startswith(LABELS)


@pytest.mark.parametrize("text", [*KINDS, *MORE])
def test_literal_text_can_be_read_back(text):
    assert read(literal(text)) == text
    left = literal(text).replace(":red[]", "")
    assert not set(left) & set("[](){}<>$`*_~!|\\:/.@-=+\"'^%,?")


def test_an_error_keeps_its_list_and_its_lines_are_literal():
    message = f"Not loaded.\n- {ALL}\n\n- two"
    first, second, third = literal_lines(message).split("\n")
    assert second == f"- {literal(ALL)}" and third == "- two"
    assert read(first) == "Not loaded."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [x]", "plain [x]"),
        ("a\nb\tc\x1b[0m", r"a\nb\tc\x1b[0m"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("half \ud800", r"half \ud800"),
        # Written with what cannot be seen, and with wide spaces.
        (
            "می\u200cخواهم 日本\u3000語 👩\u200d🔬",
            "می\u200cخواهم 日本\u3000語 👩\u200d🔬",
        ),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, expected):
    assert visible(text) == expected


def test_a_message_holds_no_folder_of_the_server(tmp_path):
    for folder in (cache_dir(), tmp_path):
        error = OSError(28, "No space left", str(folder / "file"))
        assert "No space left" in message_of(error)
        assert "file" in message_of(error)
        assert str(folder) not in message_of(error)
    assert message_of(KeyError()) == "KeyError"


def test_a_file_is_saved_under_a_name_that_every_system_takes():
    assert file_name(FILE_NAME) == "x-(y)-(p.png)-x-b-red-x.safetensors"
    assert file_name("../..") == "adapter.safetensors"
    assert file_name("mine (own)") == "mine-(own).safetensors"
