"""What is in the bank: sizes, places, memory, checks; files in and out."""

import pandas as pd
import streamlit as st

from app.serve import proofs
from app.serve.limits import MAX_RANK, MAX_UPLOAD_MEGABYTES
from app.serve.served import Served, methods_label, size_label
from app.views import charts, picture, state
from app.views.literal import file_name, literal

TEXTS = [
    "A slow start, but the last half hour is worth every minute.",
    "After two weeks the lid no longer closes.",
]

st.markdown(
    "The bank holds one base and any number of adapters. Each adapter is one "
    "small file: its weights on some layers of the base, and its head."
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
                    "method": methods_label(served.info),
                    "size": size_label(served.info),
                    "parameters": served.info.parameters,
                    "kB": round(served.info.bytes / 1e3),
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
    st.subheader("Memory")
    table = service.bank.summary()
    count = len(table.rows)
    if not count:
        return
    st.altair_chart(
        charts.memory(table.bank_bytes, table.copies_bytes, count),
        alt="Memory of one base with its adapters, and of a model a task",
    )
    st.caption(
        f"Megabytes of weights. The base: {table.base_bytes / 1e6:.0f} MB, in "
        f"memory once; slots for adapters in use: {table.slot_bytes / 1e6:.0f} "
        f"MB, room for other visitors' up to rank {MAX_RANK} included. "
        "All adapters in the bank are counted, other visitors' too."
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
        "The base's linear layers, from the input (top) to the output. Colour: "
        "how far the adapter moves the layer, as the Frobenius norm of its "
        "update (LoRA: scale · A·B; bottleneck: down · up). Outlined: no "
        "adapter there."
    )
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
        "The largest difference of any feature of two texts. The first two "
        "are the base untouched; the third is rounding; the last says how much "
        "the adapter changes."
        + (" A bottleneck cannot be merged." if proof.merged is None else "")
    )


def take_upload() -> None:
    st.subheader("Bring an adapter")
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
    st.subheader("Where one sits, and how large its updates are")
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
