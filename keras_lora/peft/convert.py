"""From a PEFT folder to an adapter file and back, by files alone."""

import os
from pathlib import Path
from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.files.format import inspect_adapter, record_of, write_adapter
from keras_lora.files.load import load_adapter
from keras_lora.model.fingerprint import digests_of, is_sampled
from keras_lora.peft.as_file import read_as_file
from keras_lora.peft.hub import find_backbone, read_backbone
from keras_lora.peft.load import base_layers
from keras_lora.peft.origin import origin_of
from keras_lora.peft.save import save_peft
from keras_lora.rewrite.checks import not_a_base


def import_folder(
    base: Path, folder: Path, output: Path, head: bool = True
) -> str:
    """Writes a PEFT folder as an adapter file; says what was written.

    Args:
        base: A `.keras` file, or the folder of a KerasHub preset or Hugging
            Face checkpoint.
        folder: The PEFT folder.
        output: The adapter file to write.
        head: Whether a classifier goes along.
    """
    what = f"{output} was not written"
    layers = base_layers(read_base(base))
    raise_if(what, not_a_base(layers))
    try:
        origin = origin_of(layers, None)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    sampled = is_sampled(layers.values())
    digests = digests_of(layers, sampled)
    outputs = keras.tree.flatten(getattr(layers[""], "outputs", None) or [])
    info, tensors = read_as_file(
        folder, origin, digests, sampled, outputs, what, head
    )
    write_adapter(output, tensors, record_of(info))
    return str(inspect_adapter(output))


def export_file(
    base: Path, file: Path, folder: Path, head: bool = True, **names: Any
) -> str:
    """Writes an adapter file as a PEFT folder; says what was written.

    Args:
        base: As for `import_folder`.
        file: The adapter file.
        folder: The PEFT folder to make.
        head: Whether a head goes along; the base must have it, too.
        **names: As for `save_peft`.
    """
    model = read_base(base)
    load_adapter(model, file, head=head)
    backbone = find_backbone(base_layers(model).values())
    save_peft(model if head or backbone is None else backbone, folder, **names)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    lines = [
        f"{folder / name}: {size:,} bytes"
        for name, size in sorted(sizes.items())
    ]
    info = inspect_adapter(file)
    if info.labels or info.about:
        lines.append("labels and about stay behind: a PEFT folder has no place")
    return "\n".join(lines)


def read_base(path: str | os.PathLike[str]) -> Any:
    """A model from a `.keras` file or a preset's or checkpoint's folder."""
    if os.path.isdir(path):
        return read_backbone(str(path))
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises what the config leads it to
        raise ValueError(f"{path} was not read: {error}") from error
