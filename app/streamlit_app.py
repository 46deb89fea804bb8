"""`streamlit run app/streamlit_app.py`: the demo in a browser."""

import importlib
import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's own folder on the path; `app` lies above it.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from app.views.literal import literal  # noqa: E402
from app.views.page import STYLE  # noqa: E402

PAGES = (
    (
        "switch",
        "Switch",
        ":material/swap_horiz:",
        "One text, many tasks: switch, and compare with the bare model.",
    ),
    (
        "mixed",
        "Mixed batch",
        ":material/table_rows:",
        "Rows of different tasks, answered in one pass of the model.",
    ),
    (
        "train",
        "Train",
        ":material/model_training:",
        "Train an adapter of your own and watch it learn.",
    ),
    (
        "adapters",
        "Adapters",
        ":material/layers:",
        "What each adapter holds, where it sits, and what it costs.",
    ),
    (
        "how",
        "How it works",
        ":material/lightbulb:",
        "The two methods in pictures and few words.",
    ),
)

# Before the pages are named: the browser would fetch the icon of one of them.
st.set_page_config(page_icon=f"{ROOT}/app/icon.svg", layout="centered")
page = st.navigation(
    [
        st.Page(
            f"app_pages/{name}.py",
            title=title,
            icon=icon,
            help=text,
            default=name == "switch",
        )
        for name, title, icon, text in PAGES
    ],
    position="top",
)
st.set_page_config(page_title=f"{page.title} · keras_lora")
st.html(STYLE)
st.title(literal(page.title), anchor=False)
if "keras" not in sys.modules:
    # The first visitor of a process waits for it, and is told so.
    with st.empty():
        st.info(
            "Starting: Python loads Keras and TensorFlow. This happens once "
            "and takes some ten seconds.",
            icon=":material/hourglass_top:",
        )
        importlib.import_module("keras")
        st.write("")
page.run()
