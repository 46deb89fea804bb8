"""Train an adapter: choose, see the price, start, watch, stop, keep."""

import pandas as pd
import streamlit as st

from app.learn import estimate
from app.learn.training import Settings
from app.serve import corrections
from app.serve.job import Job
from app.serve.limits import LADDER_WIDTHS, MAX_BOTTLENECK, MAX_RANK
from app.serve.messages import message_of
from app.serve.served import title_of
from app.serve.trainer import MOST_HELD_OUT, Busy, smaller
from app.texts.data import Splits
from app.texts.fetch import FetchError
from app.texts.tasks import TASKS, get_task
from app.views import state
from app.views.literal import literal
from app.views.own_csv import Chosen, read_own
from app.views.run_views import forget, show_outcome, watch

KEPT_TEXTS = 300  # of a task, among which corrections are learned
OWN = "Your own CSV"
CORRECTED = "corrections:"  # before an adapter's name, as a source
SIZES = (100, 300, 1000, 3000)
METHODS = {"lora": "LoRA", "bottleneck": "Bottleneck", "side": "Ladder"}
TARGETS = {
    "all-linear": "all linear layers (the usual choice)",
    "attention": "attention: query, value",
    "feed-forward": "feed-forward layers",
    "choose": "choose by name",
}

st.markdown(
    "Teach the shared model a task of your own: from one of the tasks' texts, "
    "or from a CSV. Only a small adapter is trained, with Keras's `model.fit`, "
    "on a copy of the model, so that other visitors' answers go on meanwhile. "
    "One visitor trains at a time."
)
service = state.service()
trainer = state.trainer()


@st.cache_data(show_spinner="Reading the texts", max_entries=8)
def task_splits(name: str) -> Splits:
    return get_task(name).load()


@st.cache_data(show_spinner=False, max_entries=16)
def mean_tokens(texts: list[str]) -> float:
    lengths = [len(row) for row in service.tokenizer.encode(texts)]
    return sum(lengths) / max(1, len(lengths))


def sources() -> list[str]:
    """What can be learned from; corrections where there are some."""
    corrected = [n for n in state.adapters() if state.corrections(n)]
    return [*TASKS, OWN, *(CORRECTED + name for name in corrected)]


def source_title(source: str) -> str:
    if source == OWN:
        return source
    if source.startswith(CORRECTED):
        name = source.removeprefix(CORRECTED)
        return f"Your corrections: {state.adapters()[name].title}"
    return title_of(source)


def choose_source() -> str:
    found = sources()
    asked = CORRECTED + st.query_params.get("corrections", "")
    if asked in found:
        st.session_state["source"] = asked
        del st.query_params["corrections"]
    return st.selectbox(
        "Learn from",
        found,
        format_func=source_title,
        key="source",
        persist_state="session",
    )


def choose_texts(source: str) -> Chosen | None:
    """The title, labels and texts to learn from; None while there are none."""
    try:
        if source != OWN:
            task = get_task(source)
            return task.name, task.labels, task_splits(source)
        return read_own()
    except FetchError as error:
        state.show_problem(
            message_of(error), "These texts could not be fetched"
        )
    except ValueError as error:
        state.show_problem(str(error), "These texts cannot be learned from")
    return None


def choose_settings() -> Settings | None:
    """The method and its sizes; None while they make no sense."""
    left, right = st.columns(2, gap="medium")
    method = left.segmented_control(
        "Method",
        list(METHODS),
        default="lora",
        required=True,
        format_func=lambda name: literal(METHODS[name]),
        key="method",
        persist_state="session",
    )
    epochs = right.slider("Epochs", 1, 5, 2, key="epochs")
    if method == "side":
        width = left.select_slider(
            "Width", LADDER_WIDTHS, value=48, key="ladder"
        )
        right.markdown(
            "A ladder stands beside the model and reads each of its "
            f"{len(service.blocks):d} blocks. It learns fast and less well."
        )
        return Settings(epochs=epochs, method=method, width=width)
    if method == "bottleneck":
        width = left.slider("Bottleneck", 4, MAX_BOTTLENECK, 32, key="width")
        right.markdown(
            "A bottleneck sits after each feed-forward block: "
            f"{len(service.bottlenecks):d} layers."
        )
        return Settings(epochs=epochs, method=method, bottleneck=width)
    rank = left.slider("Rank", 1, MAX_RANK, 8, key="rank")
    alpha = right.slider(
        "Alpha",
        1,
        64,
        16,
        key="alpha",
        help="How strongly the update counts: alpha / rank.",
    )
    targets = choose_targets()
    if not targets:
        st.warning("Pick at least one layer.", icon=":material/layers:")
        return None
    return Settings(epochs=epochs, rank=rank, alpha=alpha, targets=targets)


def choose_targets() -> str | list[str]:
    """Which layers get LoRA, by the last part of their path."""
    names = estimate.target_groups(service.low_rank)
    chosen = st.selectbox(
        "Targets", list(TARGETS), format_func=TARGETS.get, key="targets"
    )
    if chosen == "all-linear":
        return "all-linear"
    if chosen == "choose":
        return st.pills(
            "Layers", names, selection_mode="multi", key="layers", default=names
        )
    starts = {"attention": ("query", "value"), "feed-forward": ("feedforward",)}
    return [n for n in names if n.startswith(starts[chosen])]


def choose_size(title: str, available: int) -> int:
    """How many of the texts to train on."""
    sizes = [*(n for n in SIZES if n < available), available]
    if len(sizes) == 1:
        return available
    return st.select_slider(
        "Training texts",
        sizes,
        value=sizes[1],
        format_func=lambda n: f"{n:,}",
        key=f"size-{title}-{available}",
        help=f"At most {MOST_HELD_OUT} held-out texts are tested on.",
    )


def show_price(count: int, splits: Splits, s: Settings) -> None:
    """What it will train and take, before it starts."""
    learned = trainer.speeds.get(s.method)
    held_out = len(splits.validation) + len(splits.test)
    seconds = estimate.training_seconds(
        learned or service.speeds.of(s.method),
        mean_tokens(splits.train.texts[:500]),
        len(splits.train),
        held_out,
        s.epochs or 1,
    )
    with st.container(horizontal=True):
        st.metric("Trainable weights", f"{count:,}", border=True)
        st.metric(
            "Of all weights",
            f"{count / (service.parameters + count):.2%}",
            border=True,
        )
        st.metric(
            "Estimated time", f"≈ {estimate.duration(seconds)}", border=True
        )
    st.caption(
        f"{len(splits.train):,} texts to train on, {len(splits.validation):,} "
        f"to validate, {len(splits.test):,} to test. The time is told "
        + (
            "from the last run on this server"
            if learned
            else "from the speed of the model on this server"
        )
        + "; it includes what is measured for comparison, and the test."
    )


def own_job(source: str) -> Job | None:
    """Trains a fresh adapter; None while something is missing."""
    found = choose_texts(source)
    settings = choose_settings()
    if found is None or settings is None:
        return None
    title, labels, splits = found
    splits = smaller(splits, choose_size(title, len(splits.train)))
    count = estimate.trainable_parameters(
        service.low_rank,
        service.bottlenecks,
        service.ladders,
        service.base.output_shape[-1],
        len(labels),
        settings,
    )
    show_price(count, splits, settings)
    return Job(title, labels, splits, settings)


def correcting_job(name: str) -> Job | None:
    """Goes on with an adapter, on what it got wrong."""
    served = state.adapters()[name]
    kept = state.corrections(name)
    st.dataframe(
        pd.DataFrame(
            [
                {"text": text, "right label": served.labels[label]}
                for text, label in kept.items()
            ]
        ),
        hide_index=True,
        alt="Your corrections",
    )
    try:
        splits = served.splits or task_splits(name)
    except FetchError as error:
        state.show_problem(message_of(error), "Its texts could not be fetched")
        return None
    job = corrections.job_of(served, smaller(splits, KEPT_TEXTS), kept)
    st.markdown(
        f"“{literal(served.title)}” goes on from what it knows, on "
        f"{KEPT_TEXTS:,} of its own texts at most and on your corrections, "
        f"each {corrections.WEIGHT} times. The task that came with the demo "
        "stays as it is."
    )
    show_price(served.info.parameters, job.splits, job.settings)
    return job


def set_up() -> None:
    """The form before a run."""
    source = choose_source()
    if source.startswith(CORRECTED):
        job = correcting_job(source.removeprefix(CORRECTED))
    else:
        job = own_job(source)
    if job is None:
        return
    pressed = st.button(
        "Start training",
        type="primary",
        icon=":material/play_arrow:",
        key="start",
    )
    if trainer.busy:
        st.info(
            "Someone else is training right now; one run goes at a time.",
            icon=":material/hourglass_top:",
        )
    if pressed:
        try:
            run = trainer.start(job, state.still_here())
        except Busy as error:
            state.show_problem(str(error), "Not started")
        else:
            st.session_state["run"] = run
            st.rerun()


run = st.session_state.get("run")
if run is None:
    set_up()
elif not run.done.is_set():
    watch(run)
elif run.outcome is not None:
    show_outcome(run, run.outcome)
else:
    state.show_problem(run.error, "Nothing was trained")
    st.button("Back", key="again", on_click=forget)
