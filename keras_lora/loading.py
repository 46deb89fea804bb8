"""Loading a saved adapter into a model."""

import os
from typing import Any

import keras
import numpy as np

from keras_lora import surgery
from keras_lora.adapter_file import (
    AdapterInfo,
    inspect_adapter,
    read_tensors,
)
from keras_lora.fingerprint import by_path, differences, layer_digests
from keras_lora.head import Head, differing, find_head, find_root
from keras_lora.member import (
    hosts,
    leave_base,
    member_of,
    members,
    membership,
    preview,
)
from keras_lora.paths import join, own_variables, structural_paths
from keras_lora.problems import refuse, shorten
from keras_lora.record import HEAD, OUTSIDE
from keras_lora.rewrite import attach
from keras_lora.saving import incomplete, trained_variables
from keras_lora.surgery import Layer


def load_adapter(
    model: Any, path: str | os.PathLike[str], *, head: bool = True
) -> Any:
    """Loads a saved adapter into a model, in place.

    A base without adapter gets one as `inject` would attach it; compiled
    models that hold its layers then ask for `compile` again. A base that is
    adapted alike gets the file's values, and nothing is traced again.

    Args:
        model: The base the adapter was trained on, or an outer model with a
            head like the one that was saved.
        path: An adapter file.
        head: Whether to load what was trained outside of the base. False for
            the bare base.

    Returns:
        The same model.

    Raises:
        ValueError: The file cannot be read, its values are not finite, it
            belongs to another base, to another adapter than the model has, or
            its head has nowhere to go. Everything wrong is listed, and the
            model is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.save_adapter(base, "task.safetensors")
    keras_lora.eject(base)
    keras_lora.load_adapter(base, "task.safetensors")
    ```
    """
    info = inspect_adapter(path)
    tensors = read_tensors(info)
    what = f"{path} was not loaded"
    attached = not members(model)
    layers = (
        find_base(model, info, what) if attached else adapted(model, info, what)
    )
    if attached:
        refuse(what, misfits(layers, info, tensors))
        attach(layers, info.layers, set(info.trained))
    try:
        variables = trained_variables(layers)
        wanted = [key for key in tensors if not key.startswith("@")]
        inner = {key: tensors[key] for key in wanted}
        problems = differing(variables, inner)
        if head:
            placed, missing = place_outside(model, info, tensors)
            variables = {**variables, **placed}
            problems += missing
        refuse(what, problems)
    except BaseException:
        if attached:
            for layer in layers.values():
                leave_base(layer)
        raise
    for key, variable in variables.items():
        variable.assign(tensors[key])
    if attached:
        surgery.forget_compiled(layers.values())
    return model


def find_base(model: Layer, info: AdapterInfo, what: str) -> dict[str, Layer]:
    """The layers of the file's base: `model`, or a model within it."""
    best: list[str] | None = None
    models = [
        layer
        for layer in surgery.every_layer(model)
        if layer is model or isinstance(layer, keras.Model)
    ]
    for candidate in models:
        paths = structural_paths(candidate)
        named = {*info.layers, *info.trained}
        for key in info.base["variables"]:
            named.add(key.rpartition("/")[0])
        above = {p[:n] for p in named for n, c in enumerate(p) if c == "/"}
        inside = {p: la for p, la in paths.items() if p in named | above}
        extra = any(
            own_variables(layer)
            for path, layer in paths.items()
            if path not in inside
        )
        chosen = inside if extra else paths
        problems = wrong_base(chosen, info)
        if not problems:
            return chosen
        if best is None or len(problems) < len(best):
            best = problems
    refuse(f"{what}: it belongs to another base", (best or [])[:50])
    raise AssertionError


def wrong_base(layers: dict[str, Layer], info: AdapterInfo) -> list[str]:
    """Says how layers differ from the base that a file was trained on."""
    digests = {
        path: layer_digests(layer, info.base["sampled"])
        for path, layer in layers.items()
        if path not in info.trained
    }
    expected, found = info.base["variables"], by_path(digests)
    problems = differences(expected, found)
    problems += [
        f"{path}: not in the file's base"
        for path in found
        if path not in expected
    ]
    missing = [p for p in (*info.layers, *info.trained) if p not in layers]
    return problems + [f"{path}: no such layer" for path in missing]


def misfits(
    layers: dict[str, Layer], info: AdapterInfo, tensors: dict[str, np.ndarray]
) -> list[str]:
    """Says which adapted layers cannot carry what the file has for them."""
    problems = []
    for path, settings in info.layers.items():
        layer = layers[path]
        try:
            specs = preview(layer, settings).weight_specs(settings)
        except (AssertionError, AttributeError):
            kind = type(layer).__name__
            problems.append(f"{path}: a {kind} carries no {settings['method']}")
            continue
        for name, (shape, _) in specs.items():
            value = tensors.get(join(path, name))
            if value is None:
                problems.append(f"no {join(path, name)!r}")
            elif value.shape != shape:
                problems.append(
                    f"{join(path, name)!r}: shape {value.shape}, "
                    f"expected {shape}"
                )
    return problems


def adapted(model: Layer, info: AdapterInfo, what: str) -> dict[str, Layer]:
    """The members of a model that is adapted as the file says."""
    found = members(model)
    base = member_of(next(iter(found.values()))).base
    problems = incomplete(model, found, base)
    here = {path: host.adapter_settings for path, host in hosts(model).items()}
    for path in sorted({*here, *info.layers}):
        mine, theirs = here.get(path), info.layers.get(path)
        if mine != theirs:
            problems.append(
                f"{path}: the model has {mine}, the file {theirs}; "
                "`eject` the model's adapter first"
            )
    if set(base.trained) != set(info.trained):
        problems.append(
            f"the model trains {shorten(base.trained)} of the base, "
            f"the file {shorten(info.trained)}"
        )
    refuse(what, problems)
    refuse(f"{what}: it belongs to another base", wrong_base(found, info))
    return found


def place_outside(
    model: Layer, info: AdapterInfo, tensors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """Where the weights go that were trained outside of the base."""
    problems: list[str] = []
    variables: dict[str, Any] = {}
    outside = {k: v for k, v in tensors.items() if k.startswith(OUTSIDE + "/")}
    head = {k: v for k, v in tensors.items() if k.startswith(HEAD + "/")}
    if info.head is not None:
        found = find_head(model, find_root(model)) or likely_head(model, info)
        classes = [layer["class"] for layer in info.head["layers"]]
        if found is None or not found.layers:
            problems.append(
                f"the file's head ({', '.join(classes)}) has nowhere to go: "
                "give the outer model, or head=False"
            )
        else:
            here = [type(layer).__name__ for layer in found.layers]
            if here != classes:
                problems.append(f"the head is {here}, the file's is {classes}")
            else:
                problems += differing(found.variables(), head)
                variables |= found.variables()
    if outside:
        paths = structural_paths(model)
        own = {
            join(OUTSIDE, path, name): variable
            for path in info.outside
            if path in paths and membership(paths[path]) is None
            for name, variable in own_variables(paths[path]).items()
        }
        problems += differing(own, outside)
        problems += [
            f"layer {path!r} outside of the base is not in this model"
            for path in info.outside
            if path not in paths
        ]
        variables |= own
    return variables, problems


def likely_head(model: Layer, info: AdapterInfo) -> Head | None:
    """Layers outside of the base that match a head by class and number."""
    assert info.head is not None
    classes = [layer["class"] for layer in info.head["layers"]]
    found = [
        layer
        for layer in structural_paths(model).values()
        if membership(layer) is None
        and own_variables(layer)
        and any(v.trainable for v in own_variables(layer).values())
    ]
    if [type(layer).__name__ for layer in found] == classes:
        return Head(info.head["input"], tuple(found))
    return None
