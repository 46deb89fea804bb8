"""What keeps a model from being adapted: a sentence a problem."""

from collections.abc import Iterable

from keras_lora.errors import shorten
from keras_lora.methods.host import AdapterHost
from keras_lora.model.checks import not_freezable, unbuilt
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.membership import membership


def not_a_base(layers: dict[str, Layer]) -> list[str]:
    """What keeps a model of these layers from being adapted or served."""
    return unbuilt(layers) + occupied(layers) + not_freezable(layers)


def occupied(layers: dict[str, Layer]) -> list[str]:
    """Layers that are adapted already."""
    if served(layers.values()):
        return served(layers.values())
    adapted = [p for p, layer in layers.items() if membership(layer)]
    if adapted:
        return [
            "adapted already: `eject` or `merge` it first "
            f"(layers: {shorten(p or '(root)' for p in adapted)})"
        ]
    return [
        f"{path}: has adapter weights of its own"
        for path, layer in layers.items()
        if isinstance(layer, AdapterHost)
    ] + [
        f"{path}: Keras's own `enable_lora` was called on it"
        for path, layer in layers.items()
        if getattr(layer, "lora_enabled", False)
    ]


def served(layers: Iterable[Layer]) -> list[str]:
    """Says whether a bank serves any of some layers."""
    if any("_keras_lora_bank" in layer.__dict__ for layer in layers):
        return ["served by an AdapterBank: `detach` the bank first"]
    return []
