"""The base that a command line names."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_lora.errors import printable
from keras_lora.files.regular import read_regular
from keras_lora.peft.convert import read_base as read_model
from keras_lora.peft.hub import read_backbone

Preprocessor = Callable[[list[str]], Any]
MOST_BYTES = 16 << 20


def read_base(
    text: str, sampler: str = "greedy"
) -> tuple[Any, Preprocessor | None]:
    """A base, and what makes inputs of texts for it, or None.

    Args:
        text: A `.keras` file; the folder of a KerasHub preset, whose task has
            its preprocessor; or `module:function`, which is called and gives
            a base, or a base and a preprocessor.
        sampler: How a language model from a preset chooses tokens.

    Raises:
        ValueError: It is none of these, or gives something else.
    """
    if not os.path.exists(text) and ":" in text:
        return called(text)
    if not os.path.isdir(text):
        return read_model(text), None
    base = read_task(text)
    if hasattr(base, "generate_step"):
        base.compile(sampler=sampler)
    return base, None


def read_task(folder: str) -> Any:
    """A preset's task, or where it has none its backbone."""
    config = Path(folder) / "task.json"
    if not config.exists():
        return read_backbone(folder)
    try:
        import keras_hub

        name = json.loads(read_regular(config, MOST_BYTES))["class_name"]
        return getattr(keras_hub.models, name).from_preset(folder)
    except ImportError as error:
        raise ValueError(f"{folder} needs KerasHub: {error}") from error
    except Exception as error:  # KerasHub raises what the files lead it to
        raise ValueError(f"{folder} was not read: {error}") from error


def called(text: str) -> tuple[Any, Preprocessor | None]:
    """What a function gives that `module:function` names."""
    module, _, name = text.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{printable(text)} is no file, no folder, and no function of a "
            f"module: {error}"
        ) from error
    made = function()
    base, preprocessor = made if isinstance(made, tuple) else (made, None)
    if not isinstance(base, keras.Layer) or (
        preprocessor is not None and not callable(preprocessor)
    ):
        raise ValueError(
            f"{text} must give a Keras model, or a model and a function of a "
            f"list of texts. Received: {type(made).__name__}"
        )
    return base, preprocessor
