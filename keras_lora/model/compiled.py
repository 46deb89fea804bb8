"""Compiled functions of models whose layers have changed."""

import weakref
from collections.abc import Iterable
from typing import Any

import keras

from keras_lora.model import surgery
from keras_lora.model.surgery import Layer

CACHED_FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)
_CHANGED: weakref.WeakKeyDictionary[Layer, int] = weakref.WeakKeyDictionary()
"""By which change of all changes a layer changed last."""
_CHANGES = [0]
"""How many changes there were."""
SEEN = "changes_seen"
"""Where a model keeps how many of them its compiled functions have outlived."""


def forget_compiled(layers: Iterable[Layer]) -> None:
    """Makes every model that holds one of `layers` ask for `compile`.

    Compiled functions see no change of structure: without this an outer model
    goes on training the frozen base, with no warning. Nobody knows which
    models hold a layer, so each looks for itself when it is next asked for
    what it compiled; see `Compiled`.
    """
    _CHANGES[0] += 1
    for layer in layers:
        _CHANGED[layer] = _CHANGES[0]


def drop_stale(model: Any) -> None:
    """Drops what a model compiled before one of its layers changed."""
    state, now = model.__dict__, _CHANGES[0]
    seen = state.get(SEEN, 0)
    if seen == now:
        return
    layers = surgery.every_layer(model) if surgery.is_made(model) else ()
    if any(_CHANGED.get(layer, 0) > seen for layer in layers):
        state["compiled"] = False
        for name in CACHED_FUNCTIONS:
            if state.get(name) is not None:
                state[name] = None
    state[SEEN] = now


class Compiled:
    """An attribute of all Keras models that is dropped once it is stale.

    Every model has it, those made before this file was imported too. What it
    costs where nothing has changed is one comparison of numbers.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: Any = None) -> Any:
        if model is None:
            return self
        drop_stale(model)
        try:
            return model.__dict__[self.name]
        except KeyError:
            kind = type(model).__name__
            raise AttributeError(
                f"{kind!r} object has no attribute {self.name!r}"
            ) from None

    def __set__(self, model: Any, value: Any) -> None:
        drop_stale(model)
        model.__dict__[self.name] = value

    def __delete__(self, model: Any) -> None:
        self.__get__(model)
        del model.__dict__[self.name]


for _name in ("compiled", *CACHED_FUNCTIONS):
    setattr(keras.Model, _name, Compiled(_name))
