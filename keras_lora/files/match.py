"""Whether a file and a model belong together, before either is touched."""

import keras
import numpy as np

from keras_lora.errors import refuse, shorten
from keras_lora.files.format import AdapterInfo
from keras_lora.files.head_config import differing
from keras_lora.methods.method import METHODS, misfits
from keras_lora.model import surgery
from keras_lora.model.fingerprint import by_path, differences, layer_digests
from keras_lora.model.paths import join, own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.member import preview


def find_base(model: Layer, info: AdapterInfo, what: str) -> dict[str, Layer]:
    """The layers of the file's base: `model`, or a model within it."""
    best: list[str] | None = None
    for candidate in surgery.every_layer(model):
        paths = structural_paths(candidate)
        if candidate is not model and not isinstance(candidate, keras.Model):
            # Any layer may be a base; only those with its variables are hashed.
            names = {
                join(p, n) for p, la in paths.items() for n in own_variables(la)
            }
            if not names.issuperset(info.base["variables"]):
                continue
        named = {*info.layers, *info.trained}
        named.update(map(owner, info.base["variables"]))
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
    here = [
        path
        for path, la in structural_paths(model).items()
        if path and la.weights
    ]
    problems = [*(best or [])[:50], f"layers of this model: {shorten(here)}"]
    refuse(f"{what}: it belongs to another base", problems)
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


def find_misfits(
    layers: dict[str, Layer], info: AdapterInfo, tensors: dict[str, np.ndarray]
) -> dict[str, list[str]]:
    """Says of adapted layers why they cannot carry what the file has for them.

    Found before anything of the sizes that the file claims is made.
    """
    found = {}
    for path, settings in info.layers.items():
        layer = layers[path]
        try:
            specs = preview(layer, settings).weight_specs(settings)
        except (AssertionError, AttributeError):
            kind = type(layer).__name__
            found[path] = [f"{path}: a {kind} carries no {settings['method']}"]
            continue
        expected = {
            join(path, name): keras.KerasTensor(shape)
            for name, (shape, _) in specs.items()
        }
        theirs = {k: v for k, v in tensors.items() if owner(k) == path}
        problems = differing(expected, theirs)
        widths = METHODS[settings["method"]].widths(layer)
        problems += misfits(path, settings, widths)
        if problems:
            found[path] = problems
    return found


def owner(key: str) -> str:
    """The path of the layer that a key in a file belongs to."""
    return key.rpartition("/")[0]
