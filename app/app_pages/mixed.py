"""Rows of different tasks in one forward pass, checked one by one."""

import pandas as pd
import streamlit as st

from app.serve.answers import Mixed
from app.serve.limits import MAX_ROWS, row_problems
from app.views import charts, state, words
from app.views.literal import literal
from app.views.page import announce
from keras_lora.errors import raise_if

st.markdown(
    "Each row names its own task, and all rows go through the shared model "
    "*together*, in one pass. The same rows are then answered task by task: "
    "the answers are the same, so nothing leaks from row to row."
)
service = state.service()
adapters = state.need_adapters()
titles = {served.title: served for served in adapters.values()}
TASK_WIDTH = 138  # pixels, so that a name is whole on a phone


def first_rows() -> pd.DataFrame:
    """Two examples of each task."""
    rows = [
        (title, example)
        for place in range(2)
        for title, served in titles.items()
        for example in served.examples[place : place + 1]
    ]
    return pd.DataFrame(rows or [(None, "")], columns=["task", "text"])


def show(rows: list[tuple[str, str]], mixed: Mixed) -> None:
    headline = words.faster(mixed.together_ms, mixed.apart_ms)
    st.header(literal(headline), anchor=False)
    announce(f"{len(rows)} rows answered. {headline}")
    with st.container(horizontal=True):
        st.metric("One pass", f"{mixed.together_ms:.0f} ms", border=True)
        st.metric(
            f"{words.plural(mixed.calls, 'call')}, one for each task",
            f"{mixed.apart_ms:.0f} ms",
            border=True,
        )
        st.metric(
            "Largest difference",
            charts.difference(mixed.difference),
            border=True,
        )
    st.caption(
        f"{words.plural(len(rows), 'row')}. Both ways were warmed up and then "
        "took turns; the times are medians, from texts to answers. The "
        "difference is between the outputs of the two ways: batches of "
        "different sizes round differently."
    )
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "task": title,
                    "one pass": answer(titles[title].labels, together),
                    "alone": answer(titles[title].labels, apart),
                    "text": text,
                }
                for (text, title), together, apart in zip(
                    rows, mixed.together, mixed.apart, strict=True
                )
            ]
        ),
        hide_index=True,
        column_config={
            "task": st.column_config.TextColumn(width=TASK_WIDTH),
            "text": st.column_config.TextColumn(width="medium"),
        },
        alt="Answers of each row, in one pass and alone",
    )


def answer(labels: tuple[str, ...], values) -> str:
    best = int(values.argmax())
    return f"{labels[best]} {values[best]:.0%}"


table = st.data_editor(
    first_rows(),
    num_rows="dynamic",
    hide_index=True,
    key="rows-" + "-".join(adapters),
    column_config={
        "task": st.column_config.SelectboxColumn(
            "task", options=list(titles), width=TASK_WIDTH
        ),
        "text": st.column_config.TextColumn("text", width="large"),
    },
    alt="Texts and the task of each; edit them, or add rows",
)
st.caption(f"Edit the cells, add rows at the end; at most {MAX_ROWS}.")
if st.button(
    "Answer all rows", type="primary", icon=":material/bolt:", key="answer"
):
    rows = [
        tuple(row) for row in table[["text", "task"]].itertuples(index=False)
    ]
    try:
        raise_if("Nothing was asked", row_problems(rows, titles))
    except ValueError as error:
        state.show_problem(str(error), "The table cannot be answered")
    else:
        show(
            rows,
            service.answer_mixed([(text, titles[task]) for text, task in rows]),
        )
