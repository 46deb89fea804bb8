"""Weights that PEFT saved outside of the base: a classifier, as a rule."""

from typing import Any

import keras
import numpy as np

from keras_lora.files.head_config import layer_config
from keras_lora.files.record import HEAD, OUTSIDE
from keras_lora.model.paths import Layers, join, own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.peft.names import Named, layer_at
from keras_lora.peft.translate import as_float32

Array = np.ndarray
Modules = dict[str, dict[str, Array]]
RANKS = {"SEQ_CLS": 2, "TOKEN_CLS": 3}
"""Axes of what a task's one linear layer stands on: pooled, or a sequence."""


def place_outside(
    modules: Modules, model: Layer, base: Layers, named: Named
) -> tuple[dict[str, Array], list[str]]:
    """Finds the layer of a model, outside of its base, that each module fits.

    Returns the values by key in an adapter file, and what fits nowhere.
    """
    inside = {id(layer) for layer in base.values()}
    free = {
        path: layer
        for path, layer in structural_paths(model).items()
        if id(layer) not in inside and own_variables(layer)
    }
    values: dict[str, Array] = {}
    problems = []
    taken: dict[str, str] = {}
    for module, tensors in modules.items():
        paths = [layer_at(free, path) or path for path in named.paths(module)]
        fitting = [p for p in paths or free if fits(tensors, free.get(p))]
        if len(fitting) != 1:
            problems.append(misplaced(module, tensors, fitting))
            continue
        path = fitting[0]
        if path in taken:
            problems.append(f"{module} and {taken[path]} both fit {path!r}")
        taken[path] = module
        for name, value in dense_weights(tensors, free[path]).items():
            values[join(OUTSIDE, path, name)] = value
    return values, problems


def misplaced(module: str, tensors: dict[str, Any], fitting: list[str]) -> str:
    """Says why a module of the outside goes nowhere."""
    shapes = ", ".join(f"{n} {v.shape}" for n, v in sorted(tensors.items()))
    where = f"{module} ({shapes}) was trained outside of the base"
    if fitting:
        return f"{where} and fits {', '.join(fitting)}: say which in `names`"
    return (
        f"{where} and has nowhere to go: give a model with a Dense head of "
        "this shape, or head=False"
    )


def fits(tensors: dict[str, Array], layer: Layer | None) -> bool:
    """Whether a Dense layer takes a linear module's weights."""
    if not isinstance(layer, keras.layers.Dense):
        return False
    weight, bias = tensors.get("weight"), tensors.get("bias")
    return (
        weight is not None
        and weight.shape == tuple(layer.kernel.shape)[::-1]
        and set(tensors) <= {"weight", "bias"}
        and (bias is None or bias.shape == (layer.units,))
        and (bias is None or layer.use_bias)
    )


def dense_weights(tensors: dict[str, Array], layer: Layer) -> dict[str, Array]:
    """A linear module's weights as a Dense layer has them."""
    values = {"kernel": as_float32(tensors["weight"].T)}
    if layer.use_bias:
        bias = tensors.get("bias", np.zeros(layer.units))
        values["bias"] = as_float32(bias)
    return values


def head_on(
    modules: Modules, outputs: list[Any], task: Any
) -> tuple[dict[str, Any] | None, dict[str, Array], list[str]]:
    """The head that a folder's one classifier makes on a base's outputs.

    Returns its config and values as in an adapter file, and what cannot be a
    head.
    """
    if not modules:
        return None, {}, []
    names = ", ".join(modules)
    numbers = [
        number
        for number, output in enumerate(outputs)
        if len(output.shape) == RANKS.get(str(task))
    ]
    (tensors, *more) = modules.values()
    weight = tensors.get("weight")
    if (
        more
        or len(numbers) != 1
        or weight is None
        or set(tensors) - {"bias"} != {"weight"}
        or weight.ndim != 2
        or weight.shape[1] != outputs[numbers[0]].shape[-1]
    ):
        problem = (
            f"{names}: trained outside of the base, and no head that is known "
            f"to stand on one output of it (task_type {task!r}); load the "
            "folder into a model with that head by `load_peft`"
        )
        return None, {}, [problem]
    layer = keras.layers.Dense(len(weight), use_bias="bias" in tensors)
    layer.build(tuple(outputs[numbers[0]].shape))
    values = dense_weights(tensors, layer)
    head = {"input": numbers[0], "layers": [layer_config(layer, "dense")]}
    return head, {join(HEAD, "0", n): v for n, v in values.items()}, []
