"""A PEFT folder as the adapter file with the same content would read."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_lora.errors import raise_if
from keras_lora.files.format import AdapterInfo, described, info_of, wrong_file
from keras_lora.files.record import OUTSIDE
from keras_lora.model.paths import owner
from keras_lora.peft.folder import read_folder
from keras_lora.peft.origin import Origin
from keras_lora.peft.outside import head_on
from keras_lora.peft.translate import Translation, translate
from keras_lora.version import __version__

Arrays = dict[str, np.ndarray]
NO_BASE: dict[str, Any] = {"sampled": False, "variables": {}, "outputs": None}


def as_file(
    translated: Translation,
    tensors: Arrays,
    base: dict[str, Any] = NO_BASE,
    head: dict[str, Any] | None = None,
) -> tuple[AdapterInfo, list[str]]:
    """What such a file says of itself, and what no reader of it would take."""
    outside = [
        k.removeprefix(OUTSIDE) for k in tensors if k.startswith(OUTSIDE)
    ]
    record = {
        "version": __version__,
        "layers": translated.settings,
        "trained": translated.trained,
        "head": head,
        "outside": list(dict.fromkeys(owner(k[1:]) for k in outside)),
        "base": base,
        "modules": modules_of(translated.origin, translated.settings),
    }
    theirs = translated.info
    info = info_of(
        Path(theirs.path),
        theirs.bytes,
        record,
        described(tensors),
        theirs.digest,
    )
    return info, wrong_file(record, tensors)


def read_as_file(
    folder: str | os.PathLike[str],
    origin: Origin,
    digests: dict[str, Any],
    sampled: bool,
    outputs: list[Any],
    what: str,
    head: bool = True,
) -> tuple[AdapterInfo, Arrays]:
    """Reads a folder for a bare base, its classifier as a head if it can be.

    Args:
        folder: The folder.
        origin: Where the base's layers come from.
        digests: The base's fingerprint.
        sampled: Whether that is of samples.
        outputs: The base's symbolic outputs.
        what: What is not done where something is wrong.
        head: Whether a classifier goes along.
    """
    translated = translate(read_folder(folder), origin)
    if not head:
        translated.outside = {}
    raise_if(what, translated.problems)
    tensors, outside = translated.read()
    task = translated.info.config.get("task_type")
    config, of_head, problems = head_on(outside, outputs, task)
    trained = set(translated.trained)
    base = {
        "sampled": sampled,
        "variables": {
            k: v for k, v in digests.items() if owner(k) not in trained
        },
        "outputs": None,
    }
    tensors |= of_head
    info, wrong = as_file(translated, tensors, base, config)
    raise_if(what, translated.problems + problems + wrong)
    return info, tensors


def modules_of(origin: Origin, adapted: dict[str, Any]) -> dict[str, Any]:
    """From which modules adapted layers come, as it stands in a file.

    None of it where a layer's share of a module is more than some columns.
    """
    found: dict[str, Any] = {}
    for module, parts in origin.parts.items():
        size_out = sum(len(part.rows_out) for part in parts)
        for part in parts:
            if part.path not in adapted:
                continue
            first = part.columns()
            if first is None:
                return {}
            found[part.path] = [
                module,
                first,
                size_out,
                part.transposed,
            ]
    return found
