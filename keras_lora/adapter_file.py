"""The adapter file: safetensors, and one JSON record in its metadata.

Tensors are keyed `<layer path>/<weight>` by path in the base. Keys of what was
trained outside of the base start with `@head/` or `@outside/`. No part of a
file is ever executed.
"""

import contextlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from keras_lora.problems import refuse, shorten
from keras_lora.record import wrong_record, wrong_tensors

FORMAT = 1
METADATA_KEY = "keras_lora"
MAX_BYTES = 16 << 30
MAX_RECORD = 64 << 20


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
    """

    path: str
    bytes: int
    version: str
    layers: dict[str, dict[str, Any]]
    trained: tuple[str, ...]
    head: dict[str, Any] | None
    outside: tuple[str, ...]
    base: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

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
        from keras_lora.head_config import rebuild_head

        return rebuild_head(self, read_tensors(self))

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.parameters:,} values, "
            f"keras_lora {self.version}",
            f"methods: {', '.join(self.methods)}",
            f"base: {len(self.base['variables'])} variables, "
            + ("sampled" if self.base["sampled"] else "every value hashed"),
        ]
        if self.head is not None:
            classes = [layer["class"] for layer in self.head["layers"]]
            lines.append(f"head: {', '.join(classes)}")
        if self.outside:
            lines.append(f"outside the base: {shorten(self.outside)}")
        if self.trained:
            lines.append(f"trained in the base: {shorten(self.trained)}")
        lines.append(f"adapted layers ({len(self.layers)}):")
        for path, settings in self.layers.items():
            shown = {k: v for k, v in settings.items() if k != "method"}
            text = ", ".join(f"{k} {v}" for k, v in shown.items())
            lines.append(f"  {path or '(root)'}: {settings['method']}, {text}")
        return "\n".join(lines)


def inspect_adapter(path: str | os.PathLike[str]) -> AdapterInfo:
    """Reads what an adapter file says of itself; no tensor is loaded.

    Args:
        path: An adapter file.

    Returns:
        An `AdapterInfo`; `print` it, or read its fields.

    Raises:
        ValueError: The file is missing, truncated, malformed, too large, no
            adapter file, or of a newer format.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.save_adapter(base, "task.safetensors")
    print(keras_lora.inspect_adapter("task.safetensors"))
    ```
    """
    path = Path(path)
    what = f"{path} was not read"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"{what}: {error.strerror}") from error
    if not path.is_file():
        raise ValueError(f"{what}: it is no file")
    if size > MAX_BYTES:
        raise ValueError(f"{what}: {size:,} bytes are over {MAX_BYTES:,}")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {
                key: (part.get_dtype(), tuple(part.get_shape()))
                for key in file.keys()  # noqa: SIM118
                for part in [file.get_slice(key)]
            }
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{what}: it is truncated or no safetensors file ({error})"
        ) from error
    record = _parse(metadata.get(METADATA_KEY), what)
    problems = wrong_record(record) or wrong_tensors(record, tensors)
    refuse(what, problems)
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
    )


def _parse(text: str | None, what: str) -> dict[str, Any]:
    """The JSON record, once its format is known to be one of ours."""
    if text is None:
        raise ValueError(f"{what}: it is no keras_lora adapter")
    if len(text) > MAX_RECORD:
        raise ValueError(f"{what}: its record is over {MAX_RECORD:,} bytes")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: its record is no JSON ({error})") from error
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"{what}: its record has no format version")
    if version > FORMAT:
        raise ValueError(
            f"{what}: format {version} is newer than {FORMAT}, which this "
            "keras_lora reads; update it"
        )
    return dict(record)


def read_tensors(info: AdapterInfo) -> dict[str, np.ndarray]:
    """Loads all tensors of a file.

    Raises:
        ValueError: A value is not finite, or the file has changed.
    """
    what = f"{info.path} was not loaded"
    try:
        with safetensors.safe_open(info.path, "numpy") as file:
            tensors = {key: file.get_tensor(key) for key in info.tensors}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as e:
        raise ValueError(f"{what}: {e}") from e
    refuse(what, not_finite(tensors))
    return tensors


def not_finite(tensors: dict[str, np.ndarray]) -> list[str]:
    """Says which tensors hold NaN or infinity."""
    return [
        f"tensor {key!r} is not finite"
        for key, value in tensors.items()
        if value.dtype.kind not in "biu"
        and not np.isfinite(value.astype("float32")).all()
    ]


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
    data: bytes = save(tensors, metadata={METADATA_KEY: text})
    return data


def record_of(info: AdapterInfo) -> dict[str, Any]:
    """The record that a file's header came from."""
    return {
        "version": info.version,
        "layers": info.layers,
        "trained": list(info.trained),
        "head": info.head,
        "outside": list(info.outside),
        "base": info.base,
    }


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then renames: a crash leaves the old file."""
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
    except OSError as error:
        raise ValueError(f"{path} was not written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise ValueError(
                f"{path} was not written: {error.strerror}"
            ) from error
        raise
