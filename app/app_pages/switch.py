"""One text, one task at a time, beside what the bare base makes of it."""

import streamlit as st

from app.serve.answers import Answer
from app.serve.limits import check_text
from app.serve.messages import visible
from app.serve.served import Served
from app.texts.base import MAX_TOKENS
from app.views import charts, state
from app.views.literal import literal

st.markdown(
    "One frozen base model answers every task. What a task learned is a small "
    "*adapter* beside it: pick another one and the same base does another job."
)
service = state.service()
adapters = state.need_adapters()
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


def tell_address() -> None:
    """The address names the task that was picked, to be shared."""
    st.query_params["task"] = adapters[st.session_state["task"]].title


name = st.pills(
    "Task",
    list(adapters),
    required=True,
    format_func=lambda name: literal(adapters[name].title),
    key="task",
    on_change=tell_address,
)
served = adapters[name]
if served.question:
    st.caption(literal(served.question))


def take_example() -> None:
    """The example that was clicked becomes the text."""
    if chosen := st.session_state[f"example-{name}"]:
        st.session_state["text"] = chosen


def show_answer(served: Served, text: str) -> None:
    answer = service.answer(served, text)
    frozen = service.answer_frozen(served, text)
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, height="stretch", key="adapted"):
        st.caption("Base with this task's adapter")
        show_shares(served, answer.probabilities)
    with right, st.container(border=True, height="stretch", key="frozen"):
        st.caption("Frozen base with a linear probe")
        if frozen is None:
            st.caption(
                "No probe belongs to this adapter: the bare base has no "
                "answer of its own."
            )
        else:
            show_shares(served, frozen)
    show_times(answer)


def show_shares(served: Served, values) -> None:
    best = int(values.argmax())
    label, share = served.labels[best], f"{values[best]:.1%}"
    st.markdown(f"##### {literal(label)}, {literal(share)}", anchors=False)
    st.altair_chart(
        charts.shares(served.labels, values), alt=f"{visible(label)}, {share}"
    )


def show_times(answer: Answer) -> None:
    with st.container(horizontal=True):
        st.metric("Switch", f"{answer.switch_ms:.2f} ms", border=True)
        st.metric("Prediction", f"{answer.call_ms:.0f} ms", border=True)
        st.metric("Tokens read", f"{answer.tokens:d}", border=True)
    st.caption(
        "Both were measured on the server for this very answer. Switch: the "
        "adapter found ("
        + (
            "it was copied into a slot of the bank"
            if answer.brought_in
            else "it sat in a slot of the bank already"
        )
        + "). Prediction: from the text to the probabilities, tokens and head "
        "included."
    )
    if answer.tokens >= MAX_TOKENS:
        st.info(
            f"The base read the first {MAX_TOKENS} tokens; the rest was cut.",
            icon=":material/content_cut:",
        )


if served.examples:
    st.pills(
        "Examples",
        served.examples,
        key=f"example-{name}",
        on_change=take_example,
    )
start = served.examples[0] if served.examples else "It was a good day."
st.session_state.setdefault("text", start)
text = st.text_area("Text", key="text", height=90, persist_state="session")
try:
    check_text(text)
except ValueError as error:
    state.show_problem(str(error), "This text cannot be answered")
else:
    show_answer(served, text)
    if "accuracy" in served.results:
        baselines = served.results.get("baselines", {})
        st.caption(
            f"On held-out texts this adapter is right in "
            f"{served.results['accuracy']:.1%}; "
            + literal("; ".join(f"{k}: {v:.1%}" for k, v in baselines.items()))
            + f". File: {served.info.bytes / 1e3:,.0f} kB."
        )
