"""The form for a CSV of one's own: the file, and which columns are read."""

from pathlib import Path
from typing import TypeAlias

import pandas as pd
import streamlit as st

from app.serve.csv_table import DELIMITERS, guess_columns, read_table
from app.serve.csv_upload import MAX_ROWS, labelled, split_upload
from app.serve.guests import shown_name
from app.serve.limits import MAX_UPLOAD_MEGABYTES
from app.texts.data import Splits
from app.views import words
from app.views.literal import literal

Chosen: TypeAlias = tuple[str, tuple[str, ...], Splits]
"""A title, the labels, and the texts to learn from."""
SAMPLE = Path(__file__).parents[1] / "sample.csv"
PREVIEW = 5  # rows of a CSV that are shown


def read_own() -> Chosen | None:
    """A visitor's CSV, its columns picked by the visitor."""
    file = st.file_uploader(
        "A CSV file: a column of texts, and one of labels",
        type=["csv", "tsv", "txt"],
        max_upload_size=MAX_UPLOAD_MEGABYTES,
        key="csv",
        help=f"2 to 20 labels. Of more than {MAX_ROWS:,} rows some are drawn "
        "at random.",
    )
    st.caption(
        "The first line names the columns. The model reads English; it makes "
        "little of other languages."
    )
    if file is None:
        st.download_button(
            "A sample file",
            SAMPLE.read_bytes(),
            "sample.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="sample",
        )
        return None
    name = file.name[:60]
    table = read_table(file.getvalue(), name)
    guessed = guess_columns(table)
    everyone = range(len(table.columns))

    def title(column: int) -> str:
        return literal(table.columns[column] or f"column {column + 1}")

    left, right = st.columns(2, gap="medium")
    picked = [
        place.selectbox(
            literal(what),
            everyone,
            index=guess,
            format_func=title,
            key=f"column-{what}-{name}-{table.count}",
        )
        for place, what, guess in zip(
            (left, right), ("Texts", "Labels"), guessed, strict=True
        )
    ]
    st.dataframe(
        pd.DataFrame(
            [
                {"text": row[picked[0]], "label": row[picked[1]]}
                for row in table.first[:PREVIEW]
            ]
        ),
        hide_index=True,
        alt="The first rows of the file",
    )
    upload = labelled(table, *picked, name)
    told = [
        f"{words.plural(len(upload.corpus), 'row')}, read as "
        f"{table.encoding} with {DELIMITERS[table.delimiter]}",
        *upload.told,
    ]
    st.caption(literal("; ".join(told)) + ".")
    splits = split_upload(upload.corpus, upload.classes)
    return shown_name(file.name), upload.classes, splits
