"""Saving an adapter as a PEFT folder."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from keras_lora.errors import raise_if, shorten
from keras_lora.files.format import (
    inspect_adapter,
    not_finite,
    read_tensors,
    record_of,
)
from keras_lora.files.record import HEAD, OUTSIDE
from keras_lora.files.save import gathered
from keras_lora.files.whole import write_whole
from keras_lora.model.paths import join, owner
from keras_lora.peft.export import Export, Target, put_modules, put_whole
from keras_lora.peft.folder import CONFIG, TENSORS
from keras_lora.peft.names import WRAPPER
from keras_lora.peft.origin import Origin, origin_of
from keras_lora.peft.trace import Part
from keras_lora.peft.translate import column_lengths
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.membership import member_of

HEADS = ("classifier", "score")
"""What torch classes call the one linear layer of their head."""
OURS = {CONFIG, TENSORS}


def save_peft(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    prefix: str = "",
    base_model: str = "",
    task_type: str | None = None,
) -> None:
    """Saves an adapter as a Hugging Face PEFT folder.

    `peft` loads it onto the same model in torch, and servers such as vLLM do
    (without DoRA and layers that trained whole). Equal adapters give equal
    bytes.

    Args:
        model: A KerasHub model with LoRA or DoRA that `inject` or `load_peft`
            attached, or the path of an adapter file that `keras-lora import`
            made; other files do not say which Hugging Face module a layer is,
            so load one into its base and give that. A head goes along if it
            is one Dense layer that is called `classifier` or `score`, as the
            torch class calls it.
        folder: Folder to make. It appears whole or not at all; one that holds
            a PEFT adapter and nothing else is replaced.
        prefix: What the torch class puts before the names that KerasHub's
            converter reads: `"transformer."` for `GPT2LMHeadModel`, `"bert."`
            for `BertForSequenceClassification`, none for
            `LlamaForCausalLM`.
        base_model: Name or folder of the base at Hugging Face, for tools that
            look it up in `adapter_config.json`.
        task_type: PEFT's name of the task, such as `"CAUSAL_LM"`.

    Raises:
        ValueError: The model has no adapter, one of another method, or one on
            a layer that comes from no linear module; a value is not finite; the
            folder cannot be written. Everything wrong is listed, and a folder
            of that name is as it was.

    Example:

    ```python
    import keras_hub

    base = keras_hub.models.GPT2Backbone(
        vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=12,
    )
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.save_peft(base, "folder", prefix="transformer.")
    keras_lora.eject(base)
    keras_lora.load_peft(base, "folder")
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """
    what = f"{folder} was not saved"
    problems = wrong_arguments(prefix, base_model, task_type)
    raise_if(what, problems + in_the_way(Path(folder)))
    prefix = f"{prefix.rstrip('.')}." if prefix else ""
    is_file = isinstance(model, str | os.PathLike)
    export = (
        of_file(model, prefix, what)
        if is_file
        else of_model(model, prefix, what)
    )
    raise_if(what, export.problems + not_finite(export.tensors))
    dora = any(key.endswith("magnitude_vector") for key in export.tensors)
    config = export.config(
        use_dora=dora,
        fan_in_fan_out=export.transposed,
        lora_dropout=export.dropout,
        base_model_name_or_path=base_model or None,
        task_type=task_type,
    )
    tensors = {
        key: np.ascontiguousarray(export.tensors[key])
        for key in sorted(export.tensors)
    }
    write_folder(
        Path(folder),
        {
            CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
            TENSORS: save(tensors, metadata={"format": "pt"}),
        },
    )


def wrong_arguments(prefix: Any, base_model: Any, task: Any) -> list[str]:
    """Says which of the names is none."""
    return [
        f"`{name}` must be a string. Received: {name}={value!r}"
        for name, value in (
            ("prefix", prefix),
            ("base_model", base_model),
            ("task_type", task if task is not None else ""),
        )
        if not isinstance(value, str)
    ]


def of_model(model: Any, prefix: str, what: str) -> Export:
    """What a model's adapter comes to in a folder."""
    record, tensors = gathered(model, None, what)
    members = {member_of(la).path: la for la in Adapted(model).all_layers}
    layers = {path: members[path] for path in sorted(members)}
    try:
        origin = origin_of(layers, None)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    targets = targets_of(origin)
    export = Export()
    put_modules(
        export,
        targets,
        record["layers"],
        tensors,
        lambda path: column_lengths(layers[path]),
        prefix,
    )
    trained = record["trained"]
    whole = {k: v for k, v in tensors.items() if owner(k) in trained}
    put_whole(export, targets, origin.ports, layers, whole, prefix)
    put_heads(export, record, tensors)
    return export


def targets_of(origin: Origin) -> dict[str, Target]:
    """The linear modules of a base."""
    found = {}
    for name, parts in origin.parts.items():
        size_out = sum(len(part.rows_out) for part in parts)
        found[name] = Target(len(parts[0].rows_in), size_out, parts)
    return found


def of_file(path: Any, prefix: str, what: str) -> Export:
    """What an adapter file that says enough comes to in a folder."""
    info = inspect_adapter(path)
    parts_of = [k for k in info.tensors if owner(k) in info.trained]
    problems = []
    if not info.modules:
        problems.append(
            "the file does not say from which Hugging Face modules its layers "
            "come, as one that `keras-lora import` made does: load it into "
            "its base and give that model, or use `keras-lora export`"
        )
    if parts_of or "dora" in info.methods:
        problems.append(
            "layers that trained whole, and the lengths of DoRA, need the "
            "base: load the file into it and give that model"
        )
    raise_if(what, problems)
    tensors = read_tensors(info)
    targets: dict[str, Target] = {}
    for layer, (module, start, size_out, turned) in info.modules.items():
        a, b = (tensors[join(layer, f"lora_{n}")] for n in "ab")
        if not 0 <= start <= start + b.shape[1] <= size_out:
            raise ValueError(f"{what}: {layer}: columns beyond its module")
        rows = np.arange(start, start + b.shape[1])
        target = targets.setdefault(module, Target(len(a), size_out, []))
        target.parts.append(Part(layer, np.arange(len(a)), rows, turned))
    export = Export()
    put_modules(
        export, targets, info.layers, tensors, lambda path: np.zeros(1), prefix
    )
    put_heads(export, record_of(info), tensors)
    return export


def put_heads(
    export: Export, record: dict[str, Any], tensors: dict[str, Any]
) -> None:
    """Adds a head that is one linear layer under a name of torch's."""
    head = record["head"]
    found = {path: join(OUTSIDE, path) for path in record["outside"]}
    if head is not None:
        for number, layer in enumerate(head["layers"]):
            if layer["class"] not in ("Dropout", "Activation"):
                found[layer["config"]["name"]] = join(HEAD, str(number))
    for path, key in found.items():
        name = path.rpartition("/")[2]
        kernel = tensors.get(join(key, "kernel"))
        if name not in HEADS or kernel is None or kernel.ndim != 2:
            export.problems.append(
                f"{path}: it trained outside of the base; a Dense layer goes "
                f"along if it is called {' or '.join(HEADS)}. Give the "
                "backbone alone to leave it out"
            )
            continue
        export.tensors[f"{WRAPPER}{name}.weight"] = kernel.T
        if join(key, "bias") in tensors:
            export.tensors[f"{WRAPPER}{name}.bias"] = tensors[join(key, "bias")]
        export.saved.append(name)


def in_the_way(folder: Path) -> list[str]:
    """Says what is at a path that no PEFT folder may replace."""
    if not folder.exists() and not folder.is_symlink():
        return []
    if folder.is_symlink() or not os.path.isdir(folder):
        return ["it is there, and no folder"]
    others = sorted({path.name for path in folder.iterdir()} - OURS)
    return [f"it holds other files: {shorten(others)}"] if others else []


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Makes a folder whole or not at all, in place of one of before."""
    mark = secrets.token_hex(8)
    new = folder.with_name(f".{folder.name}.{mark}.part")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
        for name, data in files.items():
            write_whole(new / name, data)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise ValueError(f"{folder} was not saved: {error.strerror}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
