"""Keras's state outlives a page's run."""

from typing import Any

import keras


def keep_keras_state() -> None:
    """Stops Streamlit from clearing Keras's state after each run of a page.

    Streamlit calls `keras.backend.clear_session()` there, for scripts that
    build a model each time. Here one model serves every page: TensorFlow would
    prepare its functions anew on the next call, which takes half a second, and
    whoever trains meanwhile would lose the state of the step being traced.
    `keras.utils.clear_session` still clears.
    """
    keras.backend.clear_session = _keep


def _keep(*args: Any, **kwargs: Any) -> None:
    """Clears nothing."""
