"""What keeps a model from being rewritten: one sentence a problem."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_lora.errors import refuse, shorten
from keras_lora.methods.host import AdapterHost
from keras_lora.model import surgery
from keras_lora.model.paths import own_variables
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.member import hosts, member_of, members, membership


def unbuilt(layers: dict[str, Layer]) -> list[str]:
    """Layers without weights yet; what they add later would not be frozen."""
    root = layers[""]
    if not root.built:
        return [f"{root.name!r} is not built: call it on data, or `build` it"]
    return [
        f"{path}: not built, so its weights could not be frozen"
        for path, layer in layers.items()
        if not layer.built
    ]


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


def not_freezable(layers: dict[str, Layer]) -> list[str]:
    """Layers that change their weights in training even when frozen."""
    return [
        f"{path}: SpectralNormalization changes its kernel in training"
        for path, layer in layers.items()
        if isinstance(layer, keras.layers.SpectralNormalization)
    ] + [
        f"{path}: quantized as {layer.quantization_mode}, which is not "
        "supported (int8 and int4 are)"
        for path, layer in layers.items()
        if layer.quantization_mode not in (None, "int8", "int4")
    ]


def not_adaptable(layers: dict[str, Layer], targets: list[str]) -> list[str]:
    """Targets whose kernel may not change by a low-rank update."""
    return [
        f"{path}: has a kernel constraint, which an update would break"
        for path in targets
        if getattr(layers[path], "kernel_constraint", None)
        or getattr(layers[path], "embeddings_constraint", None)
    ]


def quantized(layers: dict[str, Layer], targets: list[str]) -> list[str]:
    """Targets whose kernel's values cannot be read as they are."""
    return [
        f"{path}: quantized ({layers[path].quantization_mode}), and this "
        "method computes with the kernel itself; LoRAConfig does not"
        for path in targets
        if layers[path].quantization_mode is not None
    ]


def no_adapter(model: Any) -> str:
    """Says that a model has no adapter."""
    by_hand = any(
        isinstance(layer, AdapterHost) for layer in surgery.every_layer(model)
    )
    if by_hand:
        return (
            f"{model.name!r} has layers with adapter weights built by hand; "
            "only what `inject` attached can be handled here"
        )
    return f"{model.name!r} has no adapter: `inject` attaches one"


def incomplete(model: Layer, found: dict[str, Layer]) -> list[str]:
    """Says why the members in a model are not those of one adapted base.

    What is done to a part would leave the rest adapted by halves.
    """
    if not found:
        return [no_adapter(model)]
    bases = [member_of(layer).base for layer in found.values()]
    count = sum(
        membership(layer) is not None for layer in surgery.every_layer(model)
    )
    if len({base.uid for base in bases}) > 1 or count > len(found):
        return ["the model holds several adapted bases: take each by itself"]
    return [
        f"{path}: not in the given model, which is a part of the adapted one"
        for path in (*bases[0].hosts, *bases[0].trained)
        if path not in found
    ]


def switched_off(found: dict[str, Layer]) -> list[str]:
    """Says whether members have their values put aside by `disabled`."""
    if any(member_of(layer).off_depth for layer in found.values()):
        return ["the adapter is switched off by `disabled`"]
    return []


def without_originals(found: dict[str, Layer]) -> list[str]:
    """Trained layers of a base whose values before training are lost.

    They are not in a `.keras` file.
    """
    return [
        f"{path}: its values before training are not known here"
        for path, layer in found.items()
        if path in member_of(layer).base.trained
        and own_variables(layer)
        and member_of(layer).originals is None
    ]


def hosts_or_refuse(model: Layer, action: str) -> dict[str, Any]:
    """The adapted layers of a model, or an error that it has none."""
    refuse(action, incomplete(model, members(model)))
    return hosts(model)
