"""Doors of other libraries that would lose an adapter."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.model import surgery
from keras_lora.rewrite.membership import membership

DOORS = ("save_to_preset", "export_to_transformers")
"""Methods that write a model for a reader who makes the plain one of it."""
_GUARDED = "_keras_lora_guarded"


def guard_presets() -> None:
    """Makes all classes of layers refuse to write a preset with an adapter.

    An outer model knows nothing of an adapter within it, and would find out
    halfway through its files; so its class asks first.
    """
    for cls in surgery.subclasses(keras.layers.Layer):
        for name in DOORS:
            method = vars(cls).get(name)
            if method is not None and not hasattr(method, _GUARDED):
                setattr(cls, name, guarded(method))


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that writes a model, unless the model has an adapter."""

    @functools.wraps(method)
    def asking(model: Any, *args: Any, **kwargs: Any) -> Any:
        raise_if(
            f"{method.__name__}: nothing was written",
            has_adapter(model),
        )
        return method(model, *args, **kwargs)

    setattr(asking, _GUARDED, True)
    return asking


def has_adapter(model: Any) -> list[str]:
    """Says what to do with a model that is adapted."""
    if all(membership(layer) is None for layer in surgery.every_layer(model)):
        return []
    return [
        f"{model.name!r} has an adapter, which no reader of the files would "
        "attach. Keep the adapter by `save_adapter` and the base by `eject`, "
        "or put it into the kernels by `merge`; then call this again"
    ]
