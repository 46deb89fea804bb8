"""Which layers of a model get what: targets, layers that train, settings."""

import warnings
from collections.abc import Callable

import keras

from keras_lora.errors import refuse, shorten
from keras_lora.methods.lora.config import (
    ALL_LINEAR,
    Targets,
    matches,
    select,
)
from keras_lora.methods.lora.layers import LINEAR, lora_class
from keras_lora.model.paths import structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.checks import unbuilt
from keras_lora.settings import wrong_targets
from keras_lora.targets.placements import PLACEMENTS


def find_targets(model: Layer, targets: Targets = ALL_LINEAR) -> list[str]:
    """Lists the layers that `inject` would give LoRA weights.

    Args:
        model: A built Keras model, adapted or not.
        targets: As in `LoRAConfig`.

    Returns:
        Structural paths, in the order of the model's layers.

    Raises:
        ValueError: The model is not built, or an entry matches nothing.

    Example:

    ```python
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.find_targets(model)  # ["dense"]
    ```
    """
    layers = structural_paths(model)
    problems = unbuilt(layers) + wrong_targets(targets)
    refuse("No targets were looked for", problems)
    paths, problems = lora_targets(layers, targets, set())
    refuse("Targets were not found", problems)
    return paths


def trained_paths(
    layers: dict[str, Layer], train: Targets
) -> tuple[set[str], list[str]]:
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


def lora_targets(
    layers: dict[str, Layer],
    targets: Targets,
    trained: set[str],
    mixin: Callable[[Layer], type | None] = lora_class,
) -> tuple[list[str], list[str]]:
    """Matches `targets` against the layers that can carry low-rank weights.

    Args:
        layers: The model's layers by path.
        targets: As in `LoRAConfig`.
        trained: Paths of those that train as they are.
        mixin: Gives the class that makes a layer a host, or None.
    """
    able = [
        path
        for path, layer in layers.items()
        if mixin(layer) and path not in trained
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
    entry: str, layers: dict[str, Layer], able: list[str], trained: set[str]
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
    layers: dict[str, Layer],
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
