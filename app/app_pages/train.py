"""Train an adapter: choose, see the price, start, watch, stop, keep."""

import streamlit as st

from app.learn import estimate
from app.learn.training import Settings
from app.serve.csv_upload import read_labels, split_upload
from app.serve.guests import shown_name
from app.serve.job import Job
from app.serve.limits import MAX_BOTTLENECK, MAX_RANK, MAX_UPLOAD_MEGABYTES
from app.serve.messages import message_of
from app.serve.served import title_of
from app.serve.trainer import MOST_HELD_OUT, Busy, smaller
from app.texts.data import Splits
from app.texts.fetch import FetchError
from app.texts.tasks import TASKS, get_task
from app.views import state
from app.views.run_views import forget, show_outcome, watch

OWN = "Your own CSV"
SIZES = (100, 300, 1000, 3000)
TARGETS = {
    "all-linear": "all linear layers",
    "attention": "attention: query, value",
    "feed-forward": "feed-forward layers",
    "choose": "choose by name",
}

st.markdown(
    "An adapter trains with `model.fit`, as any Keras model; the base stays "
    "frozen. It trains on a copy of the base, so that other visitors' answers "
    "go on meanwhile; one visitor trains at a time, and a closed page ends "
    "its run."
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


def choose_texts() -> tuple[str, tuple[str, ...], Splits] | None:
    """The title, labels and texts to learn from; None while there are none."""
    source = st.selectbox(
        "Learn from",
        [*TASKS, OWN],
        format_func=lambda name: name if name == OWN else title_of(name),
        key="source",
        persist_state="session",
    )
    try:
        if source != OWN:
            task = get_task(source)
            return task.name, task.labels, task_splits(source)
        file = st.file_uploader(
            "A CSV file with the columns text and label",
            type="csv",
            max_upload_size=MAX_UPLOAD_MEGABYTES,
            key="csv",
            help="40 to 5,000 rows, 2 to 20 labels, UTF-8, at most 4 MB.",
        )
        if file is None:
            st.caption(
                "First line `text,label`, then a row a text: 40 to 5,000 rows."
            )
            return None
        corpus, labels = read_labels(file.getvalue(), file.name[:60])
        return shown_name(file.name), labels, split_upload(corpus, labels)
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
        ["lora", "bottleneck"],
        default="lora",
        required=True,
        format_func={"lora": "LoRA", "bottleneck": "Bottleneck"}.get,
        key="method",
        persist_state="session",
    )
    epochs = right.slider("Epochs", 1, 5, 2, key="epochs")
    if method == "bottleneck":
        width = left.slider("Bottleneck", 4, MAX_BOTTLENECK, 32, key="width")
        right.markdown(
            "A bottleneck sits after each feed-forward block: "
            f"{len(service.bottlenecks):d} layers."
        )
        return Settings(epochs=epochs, method=method, bottleneck=width)
    rank = left.slider("Rank", 1, MAX_RANK, 8, key="rank")
    alpha = right.slider(
        "Alpha", 1, 64, 16, key="alpha", help="The update's scale: alpha / rank"
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
    words = {"attention": ("query", "value"), "feed-forward": ("feedforward",)}
    return [n for n in names if n.startswith(words[chosen])]


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


def show_price(labels: tuple[str, ...], splits: Splits, s: Settings) -> None:
    """What it will train and take, before it starts."""
    count = estimate.trainable_parameters(
        service.low_rank,
        service.bottlenecks,
        service.base.output_shape[-1],
        len(labels),
        s,
    )
    seconds = estimate.training_seconds(
        service.seconds_per_token,
        mean_tokens(splits.train.texts[:500]),
        len(splits.train),
        len(splits.validation) + len(splits.test),
        s.epochs or 1,
    )
    with st.container(horizontal=True):
        st.metric("Trainable parameters", f"{count:,}", border=True)
        st.metric(
            "Of the base", f"{count / service.parameters:.2%}", border=True
        )
        st.metric(
            "Estimated time", f"≈ {estimate.duration(seconds)}", border=True
        )
    st.caption(
        f"{len(splits.train):,} texts to train on, {len(splits.validation):,} "
        f"to validate, {len(splits.test):,} to test. The time is a rough guess "
        "from the speed of the base's forward pass on this server; it includes "
        "both baselines and the test."
    )


def set_up() -> None:
    """The form before a run."""
    found = choose_texts()
    settings = choose_settings()
    if found is None or settings is None:
        return
    title, labels, splits = found
    splits = smaller(splits, choose_size(title, len(splits.train)))
    show_price(labels, splits, settings)
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
            run = trainer.start(
                Job(title, labels, splits, settings), state.still_here()
            )
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
