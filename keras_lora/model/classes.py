"""Classes made while running: a layer's own, with mixins before it."""

import functools
from typing import Any

import keras


@functools.cache
def class_on(host: Any, *mixins: Any) -> Any:
    """The one class of `host`, a layer or optimizer, with `mixins` before it.

    Keras compares classes, so each is made once; and it keys weight files by
    their names, so it keeps the host's. `_host_class` is the plain one.
    """
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(host, name) for name in names}
    body["_host_class"] = getattr(host, "_host_class", host)
    return type(host.__name__, (*mixins, host), body)


def plain_class(layer: Any) -> Any:
    """The class that a layer has without anything of ours."""
    return getattr(type(layer), "_host_class", type(layer))


def registered(cls: Any, name: str, known: Any) -> Any:
    """Gives `cls` a name in Keras's files, by which it finds `known`.

    A class made on another library's must not be found itself: KerasHub
    looks for the class of a preset among all that are registered, and would
    take an adapted class for the plain one.

    Returns:
        `cls`.
    """
    register = keras.saving.register_keras_serializable("keras_lora", name)
    register(cls)
    register(known)
    return cls
