"""Compiled functions of models whose layers change, or are held by a bank."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

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
KEEPER = "_keras_lora_keeper"
"""Where a layer of a served base has its `Keeper`."""
HOST = "_keras_lora_host"
"""Where a layer that works with another one's weights keeps that one."""
_CHANGED: weakref.WeakKeyDictionary[Layer, int] = weakref.WeakKeyDictionary()
"""By which change of all changes a layer changed last."""
_CHANGES = [0]
"""How many changes there were."""
SEEN = "changes_seen"
"""Where a model keeps what it `Seen`."""


class Keeper(NamedTuple):
    """What a bank does for its base where models around it run or train.

    Attributes:
        hold: What their compiled functions run under.
        freeze: Stops the base's weights from training, whatever flags a model
            around it has set.
    """

    hold: Hold
    freeze: Callable[[], None]


class Seen(NamedTuple):
    """What a model knows of the layers below it.

    Attributes:
        changes: How many changes its compiled functions have outlived.
        keepers: Of the served bases among them.
    """

    changes: int = 0
    keepers: tuple[Keeper, ...] = ()

    def freeze(self) -> None:
        """Stops what must not train."""
        for keeper in self.keepers:
            keeper.freeze()


NOTHING_SEEN = Seen()
_LOCK = threading.RLock()
"""Over changes, and models that drop what they compiled."""
_DROPPING: dict[int, Seen] = {}
"""What models know that are at it; by the thread that has the lock."""

DROPPED = "compiled_is_dropped"
"""Where a model keeps that it was compiled before one of its layers changed."""


def forget_compiled(layers: Iterable[Layer]) -> None:
    """Makes every model that holds one of `layers` ask for `compile`.

    Compiled functions see no change of structure: without this an outer model
    goes on training the frozen base, with no warning. Nobody knows which
    models hold a layer, so each looks for itself when it is next asked for
    what it compiled; see `Compiled`.
    """
    with _LOCK:
        change = _CHANGES[0] + 1
        for layer in layers:
            _CHANGED[layer] = change
        _CHANGES[0] = change  # last: who reads it takes all layers for marked


def drop_stale(model: Any, anew: bool = False) -> Seen:
    """Drops what a model compiled before one of its layers changed.

    Another thread that asks meanwhile waits, and gets what is compiled anew.

    Args:
        model: The model.
        anew: Whether it looks at its layers where nothing has changed, too:
            it may have got some.

    Returns:
        What it knows of the layers below it now.
    """
    seen: Seen = model.__dict__.get(SEEN, NOTHING_SEEN)
    if seen.changes == _CHANGES[0] and not anew:
        return seen
    with _LOCK:
        if id(model) in _DROPPING:  # it compiles anew, in `_drop`
            return _DROPPING[id(model)]
        seen, now = model.__dict__.get(SEEN, NOTHING_SEEN), _CHANGES[0]
        if seen.changes == now and not anew:
            return seen
        layers = surgery.every_layer(model) if surgery.is_made(model) else []
        layers += [la.__dict__[HOST] for la in layers if HOST in la.__dict__]
        found = [la.__dict__[KEEPER] for la in layers if KEEPER in la.__dict__]
        known = Seen(now, tuple(dict.fromkeys(found)))
        _DROPPING[id(model)] = known
        try:
            if any(_CHANGED.get(la, 0) > seen.changes for la in layers):
                _drop(model, known)
        finally:
            del _DROPPING[id(model)]
        model.__dict__[SEEN] = known
    return known


def _drop(model: Any, known: Seen) -> None:
    """Drops what a model compiled.

    Over the base of a bank a function for prediction is made anew at once: a
    loop over batches may be under way while the bank grows.
    """
    state = model.__dict__
    if state.get("compiled"):
        state[DROPPED] = True
    state["compiled"] = False
    predicts = state.get("predict_function") is not None
    for name in CACHED_FUNCTIONS:
        if state.get(name) is not None:
            state[name] = None
    if predicts and known.keepers:
        model.make_predict_function()


class Held:
    """A compiled function that runs while its model's banks are held."""

    def __init__(self, function: Any, keepers: Iterable[Keeper]) -> None:
        self.function, self.keepers = function, keepers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for keeper in self.keepers:
                stack.enter_context(keeper.hold())
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
        known = drop_stale(model)
        if self.name == "compiled":  # Keras asks before it trains
            known.freeze()
        try:
            return model.__dict__[self.name]
        except KeyError:
            kind = type(model).__name__
            raise AttributeError(
                f"{kind!r} object has no attribute {self.name!r}"
            ) from None

    def __set__(self, model: Any, value: Any) -> None:
        known = drop_stale(model, anew=True)
        if self.name == "train_function":
            known.freeze()
        if known.keepers and callable(value):
            value = Held(value, known.keepers)
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
