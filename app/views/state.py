"""What pages share: the service behind a cache, and the visitor's own."""

from collections.abc import Callable
from threading import Thread

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.serve import service as services
from app.serve.guests import Shelf
from app.serve.loading import Loading
from app.serve.served import Served
from app.serve.service import Service
from app.serve.trainer import Trainer
from app.views.keras_state import keep_keras_state
from app.views.literal import literal, literal_lines


@st.cache_resource(show_spinner=False)
def loading() -> Loading:
    """One a process."""
    keep_keras_state()
    return Loading(services.REAL)


def trainer() -> Trainer:
    """One a process: it lets one visitor train at a time."""
    return loading().trainer


def service() -> Service:
    """The shared service; the page stops here while there is none.

    The first visitor sees the download and the start. Where that fails the
    message stays, with a button to try again.
    """
    shared = loading()
    if shared.service is not None:
        return shared.service
    if shared.error is None:
        shared.begin()
        with st.container(border=True):
            st.markdown("**Starting: the base model loads once, for everyone**")
            bar = st.progress(0.0)
            while not shared.wait(0.2):
                title, share = shared.now
                bar.progress(share, text=literal(title))
        if shared.service is not None:
            st.rerun()
    _show_failure(shared)
    st.stop()


def _show_failure(shared: Loading) -> None:
    show_problem(
        shared.error or "unknown",
        "The base model could not be loaded",
        ":material/cloud_off:",
    )
    if st.button("Try again", icon=":material/refresh:", key="retry"):
        shared.begin()
        st.rerun()


@st.cache_resource(
    scope="session",
    show_spinner=False,
    # Streamlit's own thread must not wait for the bank.
    on_release=lambda shelf: Thread(target=shelf.close).start(),
)
def _shelf(_service: Service) -> Shelf:
    return Shelf(_service)


def shelf() -> Shelf:
    """This visitor's own adapters; unloaded when the session ends."""
    return _shelf(service())


def still_here() -> Callable[[], bool]:
    """Tells, from any thread, whether this visitor's page is open."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return lambda: True
    server, session = runtime.get_instance(), context.session_id
    return lambda: server.is_active_session(session)


def adapters() -> dict[str, Served]:
    """What this visitor may ask: the shipped tasks and the own adapters."""
    shared = service()
    found = [*shared.shipped.tasks, *shelf().adapters]
    return {served.name: served for served in found}


def corrections(name: str) -> dict[str, int]:
    """The texts that this visitor set right for an adapter, with the labels."""
    kept = st.session_state.setdefault("corrections", {})
    return kept.setdefault(name, {})


def need_adapters() -> dict[str, Served]:
    """As `adapters`; the page stops here where there is none."""
    found = adapters()
    show_missing()
    if not found:
        st.stop()
    return found


def show_missing() -> None:
    """Says which shipped tasks cannot be asked, and why."""
    problems = service().shipped.problems
    if problems:
        st.warning(
            literal_lines("\n".join(f"- {text}" for text in problems.values())),
            title=f"{len(problems):d} of the tasks cannot be asked",
            icon=":material/warning:",
        )


def show_problem(
    message: str, title: str, icon: str = ":material/error:"
) -> None:
    """What went wrong, as it is written."""
    st.error(literal_lines(message), title=literal(title), icon=icon)
