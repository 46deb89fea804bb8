"""Which layers of a model get what: targets, and layers that train."""

import warnings
from collections.abc import Callable

import keras

from keras_lora.errors import shorten
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import LINEAR
from keras_lora.settings import wrong_targets
from keras_lora.targets.names import ALL_LINEAR, Targets, matches, select
from keras_lora.targets.placements import PLACEMENTS


def trained_paths(layers: Layers, train: Targets) -> tuple[set[str], list[str]]:
    """The layers named in `train`, and all below them."""
    if isinstance(train, list | tuple) and not train:
        return set(), []
    problems = wrong_targets(train, "train")
    if problems:
        return set(), problems
    found, missed = select(train, [path for path in layers if path])
    below = {
        path
        for path in layers
        if any(path == top or path.startswith(top + "/") for top in found)
    }
    return below, [
        f"train: {entry!r} matches no layer. "
        f"Layers: {shorten(filter(None, layers))}"
        for entry in missed
    ]


def linear_targets(
    layers: Layers,
    targets: Targets,
    trained: set[str],
    layer_class: Callable[[Layer], type | None],
) -> tuple[list[str], list[str]]:
    """Matches `targets` against the layers that can carry low-rank weights.

    For those, `layer_class` gives the class that makes the layer a host.
    """
    able = [
        path
        for path, layer in layers.items()
        if layer_class(layer) and path not in trained
    ]
    if targets == ALL_LINEAR:
        linear = [p for p, la in layers.items() if isinstance(la, LINEAR)]
        odd = [p for p in linear if p not in trained and p not in able]
        if odd:
            warnings.warn(
                "Left out, since they have a `call` of their own: "
                + shorten(odd),
                stacklevel=4,
            )
        found = [path for path in linear if path in able]
        if found:
            return found, []
        return [], ["there is no Dense or EinsumDense layer to adapt"]
    found, missed = select(targets, able)
    return found, [
        explain_miss(entry, layers, able, trained) for entry in missed
    ]


def explain_miss(
    entry: str, layers: Layers, able: list[str], trained: set[str]
) -> str:
    """Why an entry of `targets` matches nothing, and what there is."""
    named = [path for path in layers if matches(entry, path)]
    if any(path in trained for path in named):
        return f"target {entry!r} is in `train` too"
    available = f"Available: {shorten(p or '(root)' for p in able)}"
    if named:
        kind = type(layers[named[0]]).__name__
        return f"target {entry!r} is a {kind}, no LoRA layer. {available}"
    return f"target {entry!r} matches no layer. {available}"


def output_targets(
    layers: Layers,
    targets: Targets | None,
    placement: str,
    trained: set[str],
) -> tuple[list[str], list[str]]:
    """Matches `targets` against layers whose output may be adapted.

    Where there are none, the places of the placement's name are taken.
    """
    able = [
        path
        for path, layer in layers.items()
        if path
        and path not in trained
        and not isinstance(layer, keras.layers.InputLayer)
    ]
    available = f"Available: {shorten(able)}"
    if targets is None:
        found = [p for p in PLACEMENTS[placement].find(layers) if p in able]
        if found:
            return found, []
        return [], [
            f"there is no place known for {placement!r}: no blocks of "
            f"KerasHub and no attention layers; name `targets`. {available}"
        ]
    found, missed = select(targets, able)
    return found, [
        f"target {entry!r} matches no layer. {available}" for entry in missed
    ]
