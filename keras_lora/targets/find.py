"""Which layers of a model get what: targets, and layers that train."""

import math
import warnings
from collections.abc import Callable, Collection

import keras

from keras_lora.errors import shorten
from keras_lora.model.paths import Layers, own_variables
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import LINEAR
from keras_lora.settings import wrong_targets
from keras_lora.targets.names import ALL_LINEAR, Targets, select
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
                "Left out, since they have a `call` or `kernel` of their own: "
                + shorten(odd),
                stacklevel=4,
            )
        found = [path for path in linear if path in able]
        note = mostly_elsewhere(layers, trained, able)
        if found and note:
            warnings.warn(f'"{ALL_LINEAR}": {note}', stacklevel=4)
        if found:
            return found, []
        named = f"; name `targets`. Available: {shorten(able)}" if able else ""
        return [], [f"there is no Dense or EinsumDense layer to adapt{named}"]
    found, missed = select(targets, able)
    meant = {entry: paths_of(entry, targets, layers) for entry in missed}
    return found, [
        explain_miss(entry, named, layers, able, trained)
        for entry, named in meant.items()
    ]


def paths_of(entry: str, targets: Targets, layers: Layers) -> list[str]:
    """The paths of any layers that one entry of `targets` matches."""
    found, _ = select(entry if isinstance(targets, str) else [entry], layers)
    return found


def explain_miss(
    entry: str,
    named: list[str],
    layers: Layers,
    able: list[str],
    trained: set[str],
) -> str:
    """Why an entry of `targets` gets nothing, and what there is."""
    if any(path in trained for path in named):
        return f"target {entry!r} is in `train` too"
    available = f"Available: {shorten(p or '(root)' for p in able)}"
    if not named:
        return f"target {entry!r} matches no layer. {available}"
    if len(named) == 1:
        kind = type(layers[named[0]]).__name__
        return f"target {entry!r} is a {kind}, no LoRA layer. {available}"
    kinds = (f"{p or '(root)'} ({type(layers[p]).__name__})" for p in named)
    return (
        f"target {entry!r} matches no LoRA layer, only {shorten(kinds, 4)}. "
        f"{available}"
    )


def mostly_elsewhere(
    layers: Layers, adapted: Collection[str], able: Collection[str]
) -> str:
    """Says where most of a model's weights are, unless in linear layers.

    Experts of a mixture are such: matrices stacked in one layer's weight.
    Tables of embeddings are left aside. `able` are paths that LoRA can go on.
    """
    sizes = {
        path: sum(math.prod(v.shape) for v in own_variables(layer).values())
        for path, layer in layers.items()
    }
    odd = [
        path
        for path, layer in layers.items()
        if path not in adapted
        and not isinstance(layer, (*LINEAR, keras.layers.Embedding))
        and any(len(v.shape) > 1 for v in own_variables(layer).values())
    ]
    total, there = sum(sizes.values()), sum(sizes[path] for path in odd)
    if 2 * there <= total:
        return ""
    odd.sort(key=lambda path: -sizes[path])
    shown = (f"{p or '(root)'} ({type(layers[p]).__name__})" for p in odd)
    fit = [path for path in odd if path in able]
    return (
        f"{100 * there / total:.0f} % of the weights are in layers of other "
        f"kinds and have no adapter: {shorten(shown, 4)}; LoRA can go on "
        f"{shorten(fit, 4)} of them"
    )


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
        f"target {entry!r} is in `train` too"
        if trained.intersection(paths_of(entry, targets, layers))
        else f"target {entry!r} matches no layer. {available}"
        for entry in missed
    ]
