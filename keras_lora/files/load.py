"""Loading a saved adapter into a model."""

import os
from typing import Any

import keras
import numpy as np

from keras_lora.errors import raise_if, shorten
from keras_lora.files.format import AdapterInfo, inspect_adapter, read_tensors
from keras_lora.files.head import Head, expanded, find_head
from keras_lora.files.head_config import wrong_head
from keras_lora.files.match import apart_in, find_base, misfits_of, wrong_base
from keras_lora.files.record import HEAD, OUTSIDE
from keras_lora.files.save import Outside, trained_outside, trained_variables
from keras_lora.model import graphs, surgery
from keras_lora.model.checks import differing
from keras_lora.model.compiled import forget_compiled
from keras_lora.model.fingerprint import Digests, is_sampled
from keras_lora.model.paths import (
    Layers,
    join,
    own_variables,
    owner,
    structural_paths,
)
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.checks import not_a_base, served
from keras_lora.rewrite.inject import attach
from keras_lora.rewrite.member import detach_layer
from keras_lora.rewrite.membership import membership


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
            its head has nowhere to go or costs too much to run. Everything
            wrong is listed, and the model is as it was.

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
    found = Adapted(model)
    raise_if(what, served(found.walk))
    if found:
        check_alike(found, info, what)
        problems, digests = wrong_base(found.layers, info)
        raise_if(f"{what}: it belongs to another base", problems)
        layers = found.layers
    else:
        layers, digests = find_base(model, info, what)
    return put(found, layers, info, tensors, head, what, digests)


def put(
    found: Adapted,
    layers: Layers,
    info: AdapterInfo,
    tensors: dict[str, np.ndarray],
    head: bool,
    what: str,
    digests: Digests | None = None,
) -> Any:
    """Puts what a file holds into a model, or leaves the model as it was.

    `layers` are those of the file's base: adapted alike, or plain. `digests`
    are those of the plain layers' values, where the file's were looked for.
    """
    attached = not found
    if info.base["sampled"] != is_sampled(layers.values()):
        digests = None
    misfits: dict[str, list[str]] = {}
    apart: list[str] = []
    if attached:
        raise_if(what, not_a_base(layers))
        misfits = misfits_of(
            info, layers, lambda path, method: method.widths(layers[path])
        )
        apart = apart_in(info, layers)
        fitting = {p: s for p, s in info.layers.items() if p not in misfits}
        outputs = tuple((p, n) for p, n in info.base.get("outputs") or ())
        there = all(path in layers for path, _ in outputs)
        attach(
            layers,
            fitting,
            set(info.trained),
            digests=digests,
            outputs=outputs if outputs and there else None,
        )
    try:
        variables = trained_variables(layers)
        inner = {
            key: value
            for key, value in tensors.items()
            if not key.startswith("@") and owner(key) not in misfits
        }
        problems = sum(misfits.values(), apart) + differing(variables, inner)
        if head:
            found = Adapted(found.model) if attached else found
            placed, missing = place_outside(found, info, tensors)
            variables = {**variables, **placed}
            problems += missing
        raise_if(what, problems)
    except BaseException:
        if attached:
            for layer in layers.values():
                detach_layer(layer)
        raise
    for key, variable in variables.items():
        variable.assign(tensors[key])
    if attached:
        forget_compiled(layers.values())
    return found.model


def check_alike(found: Adapted, info: AdapterInfo, what: str) -> None:
    """Refuses a model that is adapted in another way than the file says."""
    problems = found.problems + found.switched_off
    here = {path: host.adapter_settings for path, host in found.hosts.items()}
    for path in sorted({*here, *info.layers}):
        mine, theirs = here.get(path), info.layers.get(path)
        if mine != theirs:
            problems.append(
                f"{path}: the model has {mine}, the file {theirs}; "
                "`eject` the model's adapter first"
            )
    trained = found.base.trained
    if set(trained) != set(info.trained):
        problems.append(
            f"the model trains {shorten(trained)} of the base, "
            f"the file {shorten(info.trained)}"
        )
    raise_if(what, problems)


def place_outside(
    adapted: Adapted, info: AdapterInfo, tensors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """Where the weights go that were trained outside of the base."""
    model = adapted.model
    problems: list[str] = []
    variables: dict[str, Any] = {}
    outside = {k: v for k, v in tensors.items() if k.startswith(OUTSIDE + "/")}
    head = {k: v for k, v in tensors.items() if k.startswith(HEAD + "/")}
    if info.head is not None:
        shapes = {key: shape for key, (_, shape) in info.tensors.items()}
        given = graphs.output_shape(adapted.root, info.head["input"])
        problems += wrong_head(info.head, shapes, given)
        found = find_head(adapted)
        alike: list[Layer] = []
        if found is None:
            found = likely_head(model, info)
            alike = interchangeable(model, found)
        classes = [layer["class"] for layer in info.head["layers"]]
        if found is None or not found.layers:
            problems.append(
                f"the file's head ({', '.join(classes)}) has nowhere to go: "
                "give the outer model, or head=False"
            )
        elif found.classes != classes:
            problems.append(
                f"the head is {found.classes}, the file's is {classes}"
            )
        elif alike:
            problems.append(
                f"{', '.join(repr(layer.name) for layer in alike)}: which of "
                "them the file's head means cannot be told, since they are of "
                "one class and shape: put them into a Sequential, or give "
                "head=False"
            )
        else:
            problems += differing(found.variables(), head)
            variables |= found.variables()
    if outside:
        paths = structural_paths(model)
        here = {
            path: paths[path]
            for path in info.outside
            if path in paths and membership(paths[path]) is None
        }
        own = Outside(None, here).variables()
        placed = {join(OUTSIDE, path) for path in here}
        problems += differing(
            own, {k: v for k, v in outside.items() if owner(k) in placed}
        )
        problems += [
            f"layer {path!r} is not in this model outside of the base: give "
            "the outer model that was saved, or head=False"
            for path in info.outside
            if path not in here
        ]
        variables |= own
    return variables, problems


def likely_head(model: Layer, info: AdapterInfo) -> Head | None:
    """Layers outside of the base that match a head by class and number."""
    assert info.head is not None
    classes = [layer["class"] for layer in info.head["layers"]]
    found = Head(info.head["input"], tuple(trained_outside(model).values()))
    return found if found.classes == classes else None


def interchangeable(model: Layer, head: Head | None) -> list[Layer]:
    """Layers of a head that could be taken for one another.

    A `Sequential` tells in which order it calls its layers.
    """
    chains = [
        expanded([each])
        for each in surgery.every_layer(model)
        if type(each) is keras.Sequential
    ]
    alike: dict[Any, list[Layer]] = {}
    for layer in head.layers if head else ():
        shapes = [tuple(v.shape) for v in own_variables(layer).values()]
        alike.setdefault((type(layer), *shapes), []).append(layer)
    return [
        layer
        for several in alike.values()
        if len(several) > 1
        and not any(
            several == [la for la in chain if la in several] for chain in chains
        )
        for layer in several
    ]
