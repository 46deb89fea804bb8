"""One text by one task, beside the bare base; then by all tasks at once."""

import streamlit as st

from app.serve.answers import Answer
from app.serve.limits import check_text
from app.serve.messages import visible
from app.serve.served import Served
from app.texts.base import MAX_TOKENS
from app.texts.tasks import TASKS
from app.views import charts, state, words
from app.views.literal import literal, literal_table
from app.views.page import announce

service = state.service()
adapters = state.need_adapters()
st.markdown(
    f"**{words.number(len(service.shipped.tasks))} tasks, one model: "
    f"{service.bank_mb:.0f} MB in memory instead of {service.copies_mb:.0f} "
    "MB.** The model is shared and never changes. What a task learned is a "
    "small file beside it, an *adapter*: pick another one, and the same model "
    "does another job."
)
names = {served.title: name for name, served in adapters.items()}
first = next(iter(names))
asked = st.query_params.get("task", first)
if asked not in names:
    st.warning(
        f"There is no task “{literal(asked[:60])}” here; {literal(first)} is "
        "shown.",
        icon=":material/link_off:",
    )
if st.session_state.get("task") not in adapters:
    st.session_state["task"] = names.get(asked, names[first])


def owner_of(text: str) -> Served | None:
    """The task that an example came with."""
    found = (s for s in adapters.values() if text in s.examples)
    return next(found, None)


def take_task() -> None:
    """The address names the task; an example makes way for one of its own."""
    served = adapters[st.session_state["task"]]
    st.query_params["task"] = served.title
    if owner_of(st.session_state.get("text", "")) and served.examples:
        st.session_state["text"] = served.examples[0]


name = st.pills(
    "Task",
    list(adapters),
    required=True,
    format_func=lambda name: literal(adapters[name].title),
    key="task",
    on_change=take_task,
)
served = adapters[name]
if served.question:
    st.caption(literal(served.question))


def take_example() -> None:
    """The example that was clicked becomes the text."""
    if chosen := st.session_state[f"example-{name}"]:
        st.session_state["text"] = chosen


def show_answer(text: str) -> None:
    answer = service.answer(served, text)
    frozen = service.answer_frozen(served, text)
    owner = owner_of(text)
    if owner is not None and owner is not served:
        st.info(
            f"This text came with “{literal(owner.title)}”. It is not of the "
            f"kind that “{literal(served.title)}” learned from, so that its "
            "answer says little.",
            icon=":material/info:",
        )
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, height="stretch", key="adapted"):
        st.caption("With this task's adapter")
        show_shares(answer.probabilities)
    with right, st.container(border=True, height="stretch", key="frozen"):
        st.caption("Without it, by logistic regression")
        if frozen is None:
            st.caption(
                "No such regression belongs to this adapter: the bare model "
                "has no answer of its own."
            )
        else:
            show_shares(frozen)
    if frozen is not None:
        st.caption(
            "Without the adapter, a logistic regression (a *linear probe*) "
            "reads what the same model gives for the text."
            + (
                " This example was chosen as one on which the two disagree."
                if text in served.examples[:1]
                and frozen.argmax() != answer.probabilities.argmax()
                else ""
            )
        )
    best = served.labels[int(answer.probabilities.argmax())]
    announce(f"{served.title}: {best}, {answer.probabilities.max():.0%}")
    show_examples()
    correct(text, best)
    show_times(answer)


def show_examples() -> None:
    if served.examples:
        st.pills(
            "Other texts to try",
            served.examples,
            key=f"example-{name}",
            on_change=take_example,
        )


def show_shares(values) -> None:
    best = int(values.argmax())
    label, share = served.labels[best], f"{values[best]:.1%}"
    st.markdown(f"## {literal(label)}, {literal(share)}", anchors=False)
    st.altair_chart(
        charts.shares(served.labels, values), alt=f"{visible(label)}, {share}"
    )


def correct(text: str, best: str) -> None:
    """Lets the visitor set an answer right, to train on it."""
    if served.splits is None and name not in TASKS:
        return
    kept = state.corrections(name)

    def keep() -> None:
        if chosen := st.session_state[key]:
            kept[text] = served.labels.index(chosen)

    key = f"correct-{name}-{text}"
    wrong = [label for label in served.labels if label != best]
    st.pills(
        "Is that wrong? Say what is right",
        wrong,
        format_func=lambda label: literal(label),
        key=key,
        on_change=keep,
    )
    if kept:
        st.page_link(
            "app_pages/train.py",
            label=f"Train on your {words.plural(len(kept), 'correction')}",
            icon=":material/model_training:",
            query_params={"corrections": name},
        )


def show_times(answer: Answer) -> None:
    with st.container(horizontal=True):
        st.metric("Adapter lookup", f"{answer.switch_ms:.2f} ms", border=True)
        st.metric("Prediction", f"{answer.call_ms:.0f} ms", border=True)
        st.metric("Tokens read", f"{answer.tokens:d}", border=True)
    st.caption(
        "Measured on the server for this very answer. Lookup: the adapter "
        + (
            "was copied to its place beside the model"
            if answer.brought_in
            else "was in memory already, and only its number was looked up"
        )
        + ". Prediction: from the text to the probabilities."
    )
    if answer.tokens >= MAX_TOKENS:
        st.info(
            f"The model read the first {MAX_TOKENS} tokens (pieces of words); "
            "the rest was cut.",
            icon=":material/content_cut:",
        )


def show_accuracy() -> None:
    """What this adapter reached on texts that it had not seen."""
    results = served.results
    if "accuracy" not in results:
        return
    count = results.get("held_out")

    def said(accuracy: float) -> str:
        if count is None:
            return f"{accuracy:.1%}"
        return words.rightness(round(accuracy * count), count)

    others = results.get("baselines", {})
    st.caption(
        "On held-out texts this adapter is right in "
        + literal(
            "; ".join(
                [
                    said(results["accuracy"]),
                    *(f"{k}: {said(v)}" for k, v in others.items()),
                ]
            )
        )
        + f". File: {served.info.bytes / 1e3:,.0f} kB."
    )


def show_all(text: str) -> None:
    """Every task about the same text, in one pass of the model."""
    tasks = list(adapters.values())
    answers, milliseconds = service.answer_all(tasks, text)
    owner = owner_of(text)
    rows = [
        (task.title, task.labels[int(values.argmax())], f"{values.max():.0%}")
        for task, values in zip(tasks, answers, strict=True)
    ]
    marked = tasks.index(owner) if owner else -1
    st.markdown(literal_table(("Task", "Answer", "Sure"), rows, marked))
    st.caption(
        f"{words.plural(len(tasks), 'answer')} in one pass of the model: "
        f"{milliseconds:.0f} ms. "
        + (
            f"The text came with “{literal(owner.title)}”; the other tasks "
            "learned from texts of other kinds."
            if owner
            else "An answer counts where the text is of the task's kind."
        )
    )


start = served.examples[0] if served.examples else "It was a good day."
st.session_state.setdefault("text", start)
text = st.text_area("Text", key="text", height=90, persist_state="session")
try:
    check_text(text)
except ValueError as error:
    state.show_problem(str(error), "This text cannot be answered")
    show_examples()
else:
    show_answer(text)
    show_accuracy()
    st.header("The same text, every task at once", anchor=False)
    show_all(text)
