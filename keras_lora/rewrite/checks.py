"""What keeps a model from being adapted: a sentence a problem."""

from collections.abc import Iterable

from keras_lora.errors import shorten
from keras_lora.methods.host import AdapterHost
from keras_lora.model.checks import not_freezable, unbuilt
from keras_lora.model.compiled import KEEPER
from keras_lora.model.paths import own_variables
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
    if any(KEEPER in layer.__dict__ for layer in layers):
        return ["served by an AdapterBank: `detach` the bank first"]
    return []


def untrainable(layers: dict[str, Layer], trained: set[str]) -> list[str]:
    """What keeps layers named in `train` from training as they are."""
    return quantized_in(layers, trained) + torn(layers, trained)


def quantized_in(layers: dict[str, Layer], trained: set[str]) -> list[str]:
    """Says which layers named in `train` have a kernel that cannot."""
    return [
        f"train: {path} is quantized ({layers[path].quantization_mode}), and "
        "its kernel cannot train: leave it out where the base is quantized"
        for path in layers
        if path in trained
        and own_variables(layers[path])
        and layers[path].quantization_mode is not None
    ]


def torn(layers: dict[str, Layer], trained: set[str]) -> list[str]:
    """Says which layers share a weight that would train by one of them."""
    owners: dict[int, list[str]] = {}
    for path, layer in layers.items():
        for variable in own_variables(layer).values():
            owners.setdefault(id(variable), []).append(path)
    shared = {
        tuple(paths)
        for paths in owners.values()
        if 0 < sum(path in trained for path in paths) < len(paths)
    }
    return [
        f"train: {', '.join(paths)} share a weight: name all of them, or none"
        for paths in sorted(shared)
    ]
