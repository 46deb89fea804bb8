"""What keeps a model, or a variable, from being used: a sentence a problem."""

from typing import Any

import keras
import numpy as np

from keras_lora.model import surgery
from keras_lora.model.surgery import Layer

Shapes = dict[str, tuple[int, ...]]


def unbuilt(layers: dict[str, Layer]) -> list[str]:
    """Layers without weights yet; what they add later would not be frozen."""
    root = layers.get("")
    if root is not None and not root.built:
        return [f"{root.name!r} is not built: call it on data, or `build` it"]
    return [
        f"{path}: not built, so its weights could not be frozen"
        for path, layer in layers.items()
        if lacks_weights(layer)
    ]


def lacks_weights(layer: Layer) -> bool:
    """Whether a layer may have weights yet to make.

    Keras lets one make them in its constructor and in its `build`. A layer
    that no call of the model reaches is never built.
    """
    if layer.built or surgery.tracked_variables(layer):
        return False
    return surgery.builds_itself(layer)


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


def other_shapes(
    expected: Shapes, found: Shapes, called: str = ""
) -> list[str]:
    """Says which values are missing, unexpected or of another shape.

    What they are called goes before their names, such as `"tensor "`.
    """
    missing = [name for name in expected if name not in found]
    problems = [f"no {called}{name!r}" for name in missing]
    for name, theirs in found.items():
        if name not in expected:
            problems.append(f"unexpected {called}{name!r}")
        elif theirs != (shape := expected[name]):
            problems.append(f"{name!r}: shape {theirs}, expected {shape}")
    return problems


def differing(
    variables: dict[str, Any], values: dict[str, np.ndarray]
) -> list[str]:
    """Says which values do not fit variables, in shape or in kind."""
    here = {name: tuple(variable.shape) for name, variable in variables.items()}
    problems = other_shapes(here, {k: v.shape for k, v in values.items()})
    for name, value in values.items():
        if here.get(name) == value.shape:
            problems += wrong_kind(name, variables[name], value)
    return problems


def wrong_kind(name: str, variable: Any, value: np.ndarray) -> list[str]:
    """Says whether a variable's dtype cannot hold a value."""
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    if ("float" in dtype) == (value.dtype.kind in "biu"):
        return [f"{name!r}: dtype {value.dtype}, expected {dtype}"]
    if dtype == "float16":
        with np.errstate(over="ignore"):
            if not np.isfinite(value.astype("float16")).all():
                return [f"{name!r}: values beyond {dtype}"]
    return []
