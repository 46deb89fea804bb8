"""The adapter file: safetensors, and one JSON record in its metadata.

Tensors are keyed `<layer path>/<weight>` by path in the base. Keys of what was
trained outside of the base start with `@head/` or `@outside/`. No part of a
file is ever executed.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from keras_lora.errors import printable, raise_if, shorten
from keras_lora.files.container import (
    METADATA_KEY,
    Tensors,
    header_digest,
    header_of,
    opened,
    safetensors_size,
)
from keras_lora.files.head_config import rebuild_head
from keras_lora.files.labels import wrong_description
from keras_lora.files.record import too_deep, wrong_record, wrong_tensors
from keras_lora.files.whole import write_whole

FORMAT = 1


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter file says of itself, from its header alone.

    Attributes:
        path: The file.
        bytes: Its size.
        version: The keras_lora that wrote it.
        layers: Settings of each adapted layer, by its path in the base.
        trained: Paths of layers of the base that trained as they are.
        head: The stored head: where it starts and its layers' configs; None
            where there is none that can be rebuilt.
        outside: Paths of layers outside of the base whose weights load into
            the same outer model only.
        base: The base's fingerprint: `"sampled"`, `"variables"` (dtype,
            shape, hash by path) and `"outputs"`.
        tensors: Dtype and shape of each tensor, by key.
        modules: For a file made from a PEFT folder, by path: the Hugging Face
            module of an adapted layer, the first of the layer's columns in
            it, how many it has, and whether torch keeps it (in, out). Else
            empty.
        labels: The names of its classes, in the order of the head's outputs;
            empty where none were given. Two labels of one output are those of
            0 and 1.
        about: What it is for, in a few words.
        digest: A hash of all this, by which another file of the same name is
            told apart.
    """

    path: str
    bytes: int
    version: str
    layers: dict[str, dict[str, Any]]
    trained: tuple[str, ...]
    head: dict[str, Any] | None
    outside: tuple[str, ...]
    base: dict[str, Any]
    tensors: Tensors
    modules: dict[str, list[Any]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    about: str = ""
    digest: str = field(default="", repr=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in the file, e.g. `("lora",)`."""
        found = {settings["method"] for settings in self.layers.values()}
        return tuple(sorted(found))

    @property
    def parameters(self) -> int:
        """Number of values in the file."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    def build_head(self) -> Any:
        """The stored head as a `keras.Sequential` with its weights.

        Raises:
            ValueError: The file holds no head, or one that is malformed.
        """
        return rebuild_head(self.head, self.path, read_tensors(self))

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.parameters:,} values, "
            f"keras_lora {self.version}",
            f"methods: {', '.join(self.methods)}",
            f"base: {len(self.base['variables'])} variables, "
            + ("sampled" if self.base["sampled"] else "every value hashed"),
        ]
        if self.about:
            about = self.about.replace("\n", "\n  ")
            lines.insert(1, f"about: {about}")
        if self.head is not None:
            classes = [layer["class"] for layer in self.head["layers"]]
            lines.append(f"head: {', '.join(classes)}")
        if self.labels:
            lines.append(f"labels ({len(self.labels)}): {shorten(self.labels)}")
        if self.outside:
            lines.append(f"outside the base: {shorten(self.outside)}")
        if self.trained:
            lines.append(f"trained in the base: {shorten(self.trained)}")
        lines.append(f"adapted layers ({len(self.layers)}):")
        for path, settings in self.layers.items():
            shown = {k: v for k, v in settings.items() if k != "method"}
            text = ", ".join(f"{k} {v}" for k, v in shown.items())
            lines.append(f"  {path or '(root)'}: {settings['method']}, {text}")
        return printable("\n".join(lines))


def inspect_adapter(path: str | os.PathLike[str]) -> AdapterInfo:
    """Reads what an adapter file says of itself; no tensor is loaded."""
    path = Path(path)
    what = f"{path} was not read"
    size = safetensors_size(path, what)
    with opened(path, what, "it is truncated or no safetensors file") as file:
        text, tensors = header_of(file)
    record = _parse(text, what)
    raise_if(what, wrong_header(record, tensors))
    return info_of(path, size, record, tensors, header_digest(text, tensors))


def info_of(
    path: Path,
    size: int,
    record: dict[str, Any],
    tensors: Tensors,
    digest: str,
) -> AdapterInfo:
    """What a checked record says, as a value."""
    return AdapterInfo(
        path=str(path),
        bytes=size,
        version=record["version"],
        layers=record["layers"],
        trained=tuple(record["trained"]),
        head=record["head"],
        outside=tuple(record["outside"]),
        base=record["base"],
        tensors=tensors,
        modules=record.get("modules", {}),
        labels=tuple(record.get("labels", ())),
        about=record.get("about", ""),
        digest=digest,
    )


def _parse(text: str | None, what: str) -> dict[str, Any]:
    """The JSON record, once its format is known to be one of ours."""
    if text is None:
        raise ValueError(f"{what}: it is no keras_lora adapter")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{what}: its record is no JSON ({printable(str(error))})"
        ) from error
    if too_deep(record):
        raise ValueError(f"{what}: its record is nested too deep")
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"{what}: its record has no format version")
    if version > FORMAT:
        raise ValueError(
            f"{what}: format {str(version)[:20]} is newer than {FORMAT}, "
            "which this keras_lora reads; update it"
        )
    return dict(record)


def read_tensors(info: AdapterInfo) -> dict[str, np.ndarray]:
    """Loads all tensors of a file.

    Raises:
        ValueError: A value is not finite, or the file has changed.
    """
    what = f"{info.path} was not loaded"
    with opened(info.path, what, "it cannot be read") as file:
        # Another file may have been renamed into its place, with other
        # settings: numbers of one and the scale of another would be wrong.
        if header_digest(*header_of(file)) != info.digest:
            raise ValueError("it has changed since its header was read")
        tensors = {key: file.get_tensor(key) for key in info.tensors}
    raise_if(what, not_finite(tensors))
    return tensors


def not_finite(tensors: dict[str, np.ndarray]) -> list[str]:
    """Says which tensors hold NaN or infinity."""
    with np.errstate(over="ignore"):  # float64 beyond float32 is not either
        return [
            f"tensor {key!r} is not finite"
            for key, value in tensors.items()
            if value.dtype.kind not in "biu"
            and not np.isfinite(value.astype("float32")).all()
        ]


def wrong_file(
    record: dict[str, Any], tensors: dict[str, np.ndarray]
) -> list[str]:
    """Says what of a file that is to be written no reader would take."""
    return wrong_header(record, described(tensors))


def wrong_header(record: dict[str, Any], tensors: Tensors) -> list[str]:
    """Says what of a file's header is not in order."""
    return (
        wrong_record(record)
        or wrong_tensors(record, tensors)
        or wrong_description(record, tensors)
    )


def described(tensors: dict[str, np.ndarray]) -> Tensors:
    """Dtype and shape of tensors, as a header has them."""
    return {k: (dtype_code(v.dtype), v.shape) for k, v in tensors.items()}


def dtype_code(dtype: Any) -> str:
    """What safetensors calls a dtype, such as `"F32"`."""
    letters = str(dtype).rstrip("0123456789")
    bits = str(dtype).removeprefix(letters)
    known = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U"}
    return known.get(letters, letters.upper()) + bits


def write_adapter(
    path: str | os.PathLike[str],
    tensors: dict[str, np.ndarray],
    record: dict[str, Any],
) -> None:
    """Writes a file whole or not at all; equal content gives equal bytes."""
    write_whole(Path(path), adapter_bytes(tensors, record))


def adapter_bytes(
    tensors: dict[str, np.ndarray], record: dict[str, Any]
) -> bytes:
    """A whole file's bytes."""
    text = json.dumps(
        {"format": FORMAT, **record}, sort_keys=True, separators=(",", ":")
    )
    tensors = {k: np.ascontiguousarray(tensors[k]) for k in sorted(tensors)}
    return save(tensors, metadata={METADATA_KEY: text})


def record_of(info: AdapterInfo) -> dict[str, Any]:
    """The record that a file's header came from."""
    names = ("version", "layers", "trained", "head", "outside", "base")
    record = {name: getattr(info, name) for name in names}
    given: dict[str, Any] = {"modules": info.modules} if info.modules else {}
    given |= {"labels": list(info.labels)} if info.labels else {}
    given |= {"about": info.about} if info.about else {}
    return {**record, **given}
