"""What a run shows while it goes on, and when it has ended."""

import pandas as pd
import streamlit as st

from app.learn import estimate
from app.serve.job import Outcome, Run
from app.serve.served import Probe
from app.serve.snippet import snippet
from app.views import charts, state, words
from app.views.literal import file_name, literal


@st.fragment(run_every=1.0)
def watch(run: Run) -> None:
    """A run while it goes on; the page is drawn again when it has ended."""
    if run.done.is_set():
        st.rerun()
    left = run.seconds_left
    text = f"{run.phase}: {estimate.duration(run.seconds_in_phase)}"
    if run.step and left is not None:
        text = f"{run.phase}: step {run.step} of {run.steps}, about "
        text += f"{estimate.duration(left)} left"
    share = run.step / run.steps if run.steps else 0.0
    st.progress(share, text=literal(text))
    st.button(
        "Stop and keep what is trained",
        icon=":material/stop:",
        key="stop",
        on_click=run.stop,
        disabled=run.stopping.is_set(),
        help="The step that is under way is still done.",
    )
    st.caption(
        "Keep this page open: a run whose page is closed ends, and nothing "
        "of it is kept."
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
        f"trained, {outcome.share:.2%} of all; the file has "
        f"{len(outcome.file) / 1e3:,.0f} kB.",
        title=literal(f"{how}: {run.job.title}"),
        icon=":material/check_circle:",
    )
    name = file_name(run.job.title)
    with st.container(horizontal=True):
        st.download_button(
            "Download the adapter",
            outcome.file,
            name,
            "application/octet-stream",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
            key="download",
        )
        st.button(
            "Add to the bank",
            icon=":material/add:",
            key="add",
            on_click=add,
            args=(run,),
            disabled="added" in st.session_state,
        )
        st.button(
            "Train another",
            icon=":material/replay:",
            key="again",
            on_click=forget,
        )
    st.caption(
        "The server keeps it for this visit only. If you close or reload the "
        "page, or train another, it is gone: download it first."
    )
    show_added()
    show_accuracy(run, outcome)
    show_curves(run)
    show_mistakes(run, outcome)
    with st.expander("Use it in Python", icon=":material/code:"):
        text = run.job.splits.test.texts[0]
        st.code(snippet(name, run.job.labels, text), language="python")


def show_accuracy(run: Run, outcome: Outcome) -> None:
    """How many held-out texts are answered rightly, and how sure that is."""
    st.header("On texts it has not seen", anchor=False)
    count = outcome.held_out
    with st.container(horizontal=True):
        st.metric(
            "This adapter", words.rightness(outcome.right, count), border=True
        )
        for name, accuracy in outcome.baselines.items():
            right = round(accuracy * count)
            st.metric(literal(name), words.rightness(right, count), border=True)
    if outcome.corrected is not None:
        all_of_them = len(run.job.corrections)
        st.markdown(
            f"Of your {words.plural(all_of_them, 'correction')} it now gives "
            f"**{outcome.corrected:d} of {all_of_them:d}** the right label."
        )
    st.caption(
        f"{words.plural(count, 'text')} held out. 95% interval of this "
        f"adapter's share: {words.interval(outcome.right, count)}. The others "
        "are what is reached without an adapter, from the same texts: by "
        "counts of words, and by what the frozen model gives."
    )
    if count < words.FEW:
        st.warning(
            f"{words.plural(count, 'text')} are too few to tell methods apart: "
            f"have {words.FEW} or more held out, which takes about "
            f"{10 * words.FEW:,} rows.",
            icon=":material/warning:",
        )


def show_mistakes(run: Run, outcome: Outcome) -> None:
    st.header("Where it is right and wrong", anchor=False)
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
            run.outcome.file,
            f"{run.job.title} (own)",
            run.job.labels,
            probe=Probe(run.outcome.probe.kernel, run.outcome.probe.bias),
            results={
                "accuracy": run.outcome.accuracy,
                "held_out": run.outcome.held_out,
                "baselines": run.outcome.baselines,
            },
            splits=run.job.splits,
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
