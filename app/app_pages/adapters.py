"""What is in the bank: sizes, places, memory, checks; files in and out."""

import pandas as pd
import streamlit as st

from app.serve import proofs
from app.serve.limits import MAX_RANK, MAX_UPLOAD_MEGABYTES
from app.serve.served import Served, methods_label, size_label
from app.serve.snippet import snippet
from app.views import charts, picture, state
from app.views.literal import file_name, literal

TEXTS = [
    "A slow start, but the last half hour is worth every minute.",
    "After two weeks the lid no longer closes.",
]

st.markdown(
    "The server holds one model, the *base*, and any number of adapters for "
    "it: together they are the *bank*. Each adapter is one small file: some "
    "weights beside layers of the base, and the *head* that gives the labels."
)
service = state.service()
state.show_missing()
adapters = state.adapters()


def show_table() -> None:
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "adapter": served.title,
                    "method": f"{methods_label(served.info)}, "
                    + size_label(served.info),
                    "kB": round(served.info.bytes / 1e3),
                    "parameters": served.info.parameters,
                    "layers": len(served.info.layers),
                    "labels": ", ".join(served.labels),
                }
                for served in adapters.values()
            ]
        ),
        hide_index=True,
        column_config={
            "parameters": st.column_config.NumberColumn(format="localized"),
            "kB": st.column_config.NumberColumn(format="localized"),
        },
        alt="The adapters in the bank",
    )


def show_memory() -> None:
    st.header("Memory", anchor=False)
    table = service.bank.summary()
    count = len(table.rows)
    if not count:
        return
    st.altair_chart(
        charts.memory(table.bank_bytes, table.copies_bytes, count),
        alt="Memory of one base with adapters, and of a model for each task",
    )
    st.caption(
        f"Megabytes of weights. The base: {table.base_bytes / 1e6:.0f} MB, in "
        f"memory once; places for adapters in use: "
        f"{table.slot_bytes / 1e6:.0f} MB, room for other visitors' up to rank "
        f"{MAX_RANK} included. All adapters in the bank are counted, other "
        "visitors' too."
    )


def show_one(served: Served) -> None:
    if served.info.about:
        st.markdown(literal(served.info.about))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.download_button(
            "Download",
            served.file.read_bytes,
            file_name(served.title.lower()),
            "application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
            key=f"download-{served.name}",
        )
        if served.name.startswith("guest-"):
            st.button(
                "Remove",
                icon=":material/delete:",
                key=f"remove-{served.name}",
                on_click=state.shelf().remove,
                args=(served.name,),
            )
    cells = picture.cells(served.info, served.file, list(service.low_rank))
    st.altair_chart(
        charts.updates(cells), alt="Norm of the update of each layer"
    )
    st.caption(
        "The base's linear layers, from the input (top) to the output. The "
        "darker, the more the adapter changes there: the colour is the "
        "Frobenius norm of its update, the root of its summed squares (LoRA: "
        "scale · A·B; bottleneck: down · up; a ladder's stage: its weights). "
        "Outlined: no adapter there."
    )
    with st.expander("Use it in Python", icon=":material/code:"):
        text = served.examples[0] if served.examples else "It was a good day."
        name = file_name(served.title.lower())
        st.code(snippet(name, served.labels, text), language="python")
    check(served)


def check(served: Served) -> None:
    if not st.button(
        "Check it on a copy of the base",
        icon=":material/fact_check:",
        key=f"check-{served.name}",
    ):
        return
    with st.spinner("Attaching it to a fresh copy of the base"):
        proof = proofs.prove(service, served, TEXTS)
    with st.container(horizontal=True):
        st.metric(
            "Adapter off − base", charts.difference(proof.off), border=True
        )
        st.metric(
            "Ejected − base", charts.difference(proof.restored), border=True
        )
        st.metric(
            "Merged − adapted",
            "–" if proof.merged is None else charts.difference(proof.merged),
            border=True,
        )
        st.metric("Adapted − base", charts.difference(proof.moved), border=True)
    st.caption(
        "The largest difference of any number that the model gives for two "
        "texts. The first two are zero where the base is untouched; the third "
        "is rounding; the last says how much the adapter changes."
        + (
            " Only LoRA can be merged into the kernels."
            if proof.merged is None
            else ""
        )
    )


def take_upload() -> None:
    st.header("Bring an adapter", anchor=False)
    file = st.file_uploader(
        "An adapter file that was trained on this base",
        type="safetensors",
        max_upload_size=MAX_UPLOAD_MEGABYTES,
        key="adapter-file",
        help="Its header is checked before anything is loaded; it is data "
        "only, nothing in it is run. You alone see it.",
    )
    labels = st.text_input(
        "Labels, separated by commas (optional)",
        key="adapter-labels",
        placeholder="negative, positive",
    )
    if st.button(
        "Load it",
        icon=":material/upload:",
        key="load",
        disabled=file is None,
    ):
        given = tuple(
            part.strip() for part in labels.split(",") if part.strip()
        )
        try:
            served = state.shelf().add(file.getvalue(), file.name, given)
        except ValueError as error:
            state.show_problem(str(error), "This adapter was not loaded")
        else:
            st.session_state["loaded"] = served.title
            st.rerun()
    if title := st.session_state.pop("loaded", None):
        st.success(
            f"“{literal(title)}” is in the bank: ask it on the page Switch.",
            icon=":material/check_circle:",
        )


if adapters:
    show_table()
    st.header("Where one sits, and how much it changes", anchor=False)
    name = st.selectbox(
        "Adapter",
        list(adapters),
        format_func=lambda name: adapters[name].title,
        key="shown",
    )
    show_one(adapters[name])
else:
    st.info("The bank is empty.", icon=":material/inbox:")
show_memory()
take_upload()
