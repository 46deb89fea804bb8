"""Whether a file and a model belong together, before either is touched."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_lora.errors import raise_if, shorten
from keras_lora.files.format import AdapterInfo
from keras_lora.methods import METHODS
from keras_lora.methods.method import Method, Widths
from keras_lora.model import surgery
from keras_lora.model.checks import Shapes, other_shapes
from keras_lora.model.fingerprint import (
    Digests,
    described,
    hash_all,
    other_base,
    variables_of,
)
from keras_lora.model.paths import (
    Layers,
    join,
    own_variables,
    owner,
    structural_paths,
)
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.member import preview


def find_base(
    model: Layer, info: AdapterInfo, what: str
) -> tuple[Layers, Digests]:
    """The layers of the file's base: `model`, or a model within it.

    Returns:
        The layers by path, and the digests that they were found by.
    """
    named = {*info.layers, *info.trained}
    named.update(map(owner, info.base["variables"]))
    named.update(path for path, _ in info.base.get("outputs") or ())
    above = {p[:n] for p in named for n, c in enumerate(p) if c == "/"}
    tried: list[list[str]] = []
    for candidate in surgery.every_layer(model):
        paths = structural_paths(candidate)
        if candidate is not model and not isinstance(candidate, keras.Model):
            # Any layer may be a base; only those with its variables are hashed.
            names = {
                join(p, n) for p, la in paths.items() for n in own_variables(la)
            }
            if not names.issuperset(info.base["variables"]):
                continue
        inside = {p: la for p, la in paths.items() if p in named | above}
        rest = [la for p, la in paths.items() if p not in inside]
        chosen = inside if any(map(own_variables, rest)) else paths
        problems, digests = wrong_base(chosen, info)
        if not problems:
            return chosen, digests
        tried.append(problems)
    fewest = min(tried, key=len)[:50]
    paths = structural_paths(model)
    here = [path for path, la in paths.items() if path and la.weights]
    problems = [*fewest, f"layers of this model: {shorten(here)}"]
    raise_if(f"{what}: it belongs to another base", problems)
    raise AssertionError


def wrong_base(layers: Layers, info: AdapterInfo) -> tuple[list[str], Digests]:
    """Says how layers differ from the base that a file was trained on.

    Values are hashed only where the file has a variable like it.

    Returns:
        What is wrong, and the digests; all of them, where nothing is.
    """
    theirs = info.base["variables"]
    here = variables_of(
        {p: la for p, la in layers.items() if p not in info.trained}
    )
    digests = {path: [*described(v), ""] for path, v in here.items()}
    alike = {
        path: variable
        for path, variable in here.items()
        if theirs.get(path, [])[:2] == digests[path][:2]
    }
    digests |= hash_all(alike, info.base["sampled"])
    problems = other_base(theirs, digests)
    missing = [p for p in (*info.layers, *info.trained) if p not in layers]
    return problems + [f"{path}: no such layer" for path in missing], digests


def apart_in(info: AdapterInfo, layers: Mapping[str, Layer]) -> list[str]:
    """Says why what a file has for several layers is not one adapter."""
    of_method: dict[str, dict[str, Any]] = {}
    for path, settings in info.layers.items():
        if path in layers:
            of_method.setdefault(settings["method"], {})[path] = settings
    return [
        problem
        for name, found in of_method.items()
        for problem in METHODS[name].together(found, dict(layers))
    ]


def misfits_of(
    info: AdapterInfo,
    layers: Mapping[str, Layer],
    widths: Callable[[str, Method], Widths],
    called: str = "",
) -> dict[str, list[str]]:
    """Says by path why plain layers cannot carry what a file has for them.

    Found before anything of the sizes that the file claims is made. `widths`
    gives those that a method has to know of a layer.
    """
    theirs: dict[str, Shapes] = {}
    for key, (_, shape) in info.tensors.items():
        theirs.setdefault(owner(key), {})[key] = shape
    found = {}
    for path, settings in info.layers.items():
        if path not in layers:
            found[path] = [f"{path}: no such layer"]
            continue
        method, layer = METHODS[settings["method"]], layers[path]
        try:
            specs = preview(layer, settings).weight_specs(settings)
        except (AssertionError, AttributeError):
            kind = type(layer).__name__
            found[path] = [f"{path}: a {kind} carries no {method.name}"]
            continue
        expected = {join(path, n): tuple(s) for n, (s, _) in specs.items()}
        problems = other_shapes(expected, theirs.get(path, {}), called)
        problems += method.misfits(path, settings, widths(path, method))
        if problems:
            found[path] = problems
    return found
