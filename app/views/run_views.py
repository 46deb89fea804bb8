"""What a run shows while it goes on, and when it has ended."""

import pandas as pd
import streamlit as st

from app.learn import estimate
from app.serve.job import Outcome, Run
from app.views import charts, state
from app.views.literal import file_name, literal


@st.fragment(run_every=1.0)
def watch(run: Run) -> None:
    """A run while it goes on; the page is drawn again when it has ended."""
    if run.done.is_set():
        st.rerun()
    left = run.seconds_left
    text = run.phase
    if left is not None:
        text += f": step {run.step} of {run.steps}, about "
        text += f"{estimate.duration(left)} left"
    share = run.step / run.steps if run.steps else 0.0
    st.progress(share, text=literal(text))
    st.button(
        "Stop and keep what is trained",
        icon=":material/stop:",
        key="stop",
        on_click=run.stop,
        disabled=run.stopping.is_set(),
    )
    show_curves(run)


def show_curves(run: Run) -> None:
    if not run.points:
        st.caption("The curves start with the first training step.")
        return
    left, right = st.columns(2, gap="medium")
    for column, quantity in ((left, "loss"), (right, "accuracy")):
        column.altair_chart(
            charts.curves(list(run.points), quantity),
            alt=f"{quantity} by training step",
        )
    st.caption(
        "Training values are means since the epoch's start; dots are the "
        "validation texts after an epoch."
    )


def show_outcome(run: Run, outcome: Outcome) -> None:
    """What a finished run came to, and what can be done with it."""
    how = "Stopped; what was trained is kept" if outcome.stopped else "Trained"
    st.success(
        f"{run.step:d} of {run.steps:d} steps in "
        f"{estimate.duration(outcome.seconds)}; {outcome.trainable:,} weights "
        f"trained ({outcome.share:.2%}); the file has "
        f"{len(outcome.file) / 1e3:,.0f} kB.",
        title=literal(f"{how}: {run.job.title}"),
        icon=":material/check_circle:",
    )
    with st.container(horizontal=True):
        st.metric("This adapter", f"{outcome.accuracy:.1%}", border=True)
        for name, accuracy in outcome.baselines.items():
            st.metric(literal(name), f"{accuracy:.1%}", border=True)
    st.caption(
        f"Accuracy on {int(outcome.confusion.sum()):,} held-out texts; the "
        "baselines learned from the same texts."
    )
    with st.container(horizontal=True):
        st.button(
            "Add to the bank",
            type="primary",
            icon=":material/add:",
            key="add",
            on_click=add,
            args=(run,),
            disabled="added" in st.session_state,
        )
        st.download_button(
            "Download the adapter",
            outcome.file,
            file_name(run.job.title),
            "application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
            key="download",
        )
        st.button(
            "Train another",
            icon=":material/replay:",
            key="again",
            on_click=forget,
        )
    show_added()
    show_curves(run)
    show_mistakes(run, outcome)


def show_mistakes(run: Run, outcome: Outcome) -> None:
    st.subheader("Where it is right and wrong")
    st.altair_chart(
        charts.confusion(outcome.confusion, run.job.labels),
        alt="Held-out texts by true label and label given",
    )
    if outcome.mistakes:
        st.dataframe(
            pd.DataFrame(
                [
                    (text, true, given, 100 * share)
                    for text, true, given, share in outcome.mistakes[:50]
                ],
                columns=["text", "true", "given", "sure %"],
            ),
            hide_index=True,
            column_config={
                "text": st.column_config.TextColumn(width="large"),
                "sure %": st.column_config.NumberColumn(format="%.0f"),
            },
            alt="Texts it got wrong, the surest first",
        )


def add(run: Run) -> None:
    """Puts the trained adapter on the visitor's shelf."""
    try:
        served = state.shelf().add(
            run.outcome.file, f"{run.job.title} (own)", run.job.labels
        )
    except ValueError as error:
        st.session_state["add-error"] = str(error)
    else:
        st.session_state["added"] = served.title


def show_added() -> None:
    if error := st.session_state.pop("add-error", None):
        state.show_problem(error, "Not added")
    if title := st.session_state.get("added"):
        st.info(
            f"“{literal(title)}” can now be asked on the pages Switch and "
            "Mixed batch, by you alone.",
            icon=":material/check:",
        )


def forget() -> None:
    st.session_state.pop("run", None)
    st.session_state.pop("added", None)
