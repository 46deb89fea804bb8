"""Compiled functions of models whose layers change, or are held by a bank."""

import contextlib
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import keras

from keras_lora.model import surgery
from keras_lora.model.surgery import Layer

CACHED_FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)
Hold: TypeAlias = Callable[[], AbstractContextManager[Any]]
HOLD = "_keras_lora_hold"
"""Where a layer keeps what its models' compiled functions run under."""
HOST = "_keras_lora_host"
"""Where a layer that works with another one's weights keeps that one."""
_CHANGED: weakref.WeakKeyDictionary[Layer, int] = weakref.WeakKeyDictionary()
"""By which change of all changes a layer changed last."""
_CHANGES = [0]
"""How many changes there were."""
SEEN = "changes_seen"
"""Where a model keeps how many of them its compiled functions have outlived,
and what these run under."""
NOTHING_SEEN: tuple[int, list[Hold]] = (0, [])

DROPPED = "compiled_is_dropped"
"""Where a model keeps that it was compiled before one of its layers changed."""


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


def drop_stale(model: Any) -> list[Hold]:
    """Drops what a model compiled before one of its layers changed.

    Over the base of a bank a function for prediction is made anew at once: a
    loop over batches may be under way while the bank grows.

    Returns:
        What functions that it compiles from now on run under.
    """
    state, now = model.__dict__, _CHANGES[0]
    seen, holds = state.get(SEEN, NOTHING_SEEN)
    if seen == now:
        return holds
    layers = surgery.every_layer(model) if surgery.is_made(model) else []
    layers += [la.__dict__[HOST] for la in layers if HOST in la.__dict__]
    found = [la.__dict__[HOLD] for la in layers if HOLD in la.__dict__]
    holds = list(dict.fromkeys(found))
    state[SEEN] = now, holds
    if any(_CHANGED.get(layer, 0) > seen for layer in layers):
        if state.get("compiled"):
            state[DROPPED] = True
        state["compiled"] = False
        predicts = state.get("predict_function") is not None
        for name in CACHED_FUNCTIONS:
            if state.get(name) is not None:
                state[name] = None
        if predicts and holds:
            model.make_predict_function()
    return holds


class Held:
    """A compiled function that runs while its model's banks are held."""

    def __init__(self, function: Any, holds: list[Hold]) -> None:
        self.function, self.holds = function, holds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for hold in self.holds:
                stack.enter_context(hold())
            return self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


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
        holds = drop_stale(model)
        if holds and callable(value):
            value = Held(value, holds)
        if self.name == "compiled":
            model.__dict__.pop(DROPPED, None)
        model.__dict__[self.name] = value

    def __delete__(self, model: Any) -> None:
        self.__get__(model)
        del model.__dict__[self.name]


def why_dropped(model: Any) -> str:
    """Says why a model that was compiled is not any more."""
    if not model.__dict__.get(DROPPED):
        return ""
    return (
        " What it had compiled was dropped, since its layers have changed: "
        "after `inject`, `load_adapter`, `eject`, `merge` or a bank, compile "
        "it again."
    )


surgery.when_not_compiled(why_dropped)
for _name in ("compiled", *CACHED_FUNCTIONS):
    setattr(keras.Model, _name, Compiled(_name))
