"""A PEFT folder as it is: its config, and the header of its tensors."""

import json
import math
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_lora.errors import printable, shorten
from keras_lora.files.container import (
    Tensors,
    header_digest,
    header_of,
    opened,
    safetensors_size,
)
from keras_lora.files.record import FLOATS, too_deep
from keras_lora.files.regular import read_regular
from keras_lora.methods.lora.low_rank import rank_and_alpha
from keras_lora.peft.config import LowRank, malformed, unsupported
from keras_lora.peft.module import FACTOR, Module
from keras_lora.peft.names import WRAPPER
from keras_lora.peft.patterns import LONGEST_NAME

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MAX_CONFIG = 16 << 20
WRAPPED = re.compile(r"\.modules_to_save(\.default)?(?=\.\w+$)")
COPY = ".base_layer.weight"
"""Ends the key of a frozen weight that PEFT saves beside its adapter."""


@dataclass(frozen=True)
class PeftInfo:
    """What a PEFT folder says of itself, from its config and header.

    Attributes:
        path: The folder.
        bytes: The size of its tensors' file.
        version: The PEFT that wrote it, as far as it says.
        config: `adapter_config.json`, as it is.
        tensors: Dtype and shape of each tensor, by key.
        digest: A hash of the header.
    """

    path: str
    bytes: int
    version: str
    config: dict[str, Any]
    tensors: Tensors
    digest: str = field(default="", repr=False)

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The adapted modules, by name."""
        found: dict[str, Module] = {}
        for key, (_, shape) in self.tensors.items():
            match = FACTOR.fullmatch(key)
            if match:
                name = match[1].removeprefix(WRAPPER)
                part = match[2] + (".bias" if match[3] == "bias" else "")
                module = found.setdefault(name, Module(name))
                module.keys[part], module.shapes[part] = key, shape
        return found

    @cached_property
    def saved(self) -> dict[str, str]:
        """Keys of tensors that are saved whole, by their name in the model."""
        found = {}
        for key in self.tensors:
            copy = key.removesuffix(COPY)
            if FACTOR.fullmatch(key) or copy != key and self._adapts(copy):
                continue
            found[WRAPPED.sub("", key.removeprefix(WRAPPER))] = key
        return found

    @property
    def _doubles(self) -> list[str]:
        """Keys that name what another key names."""
        used = {k for m in self.modules.values() for k in m.keys.values()}
        used |= set(self.saved.values())
        return [
            key
            for key in self.tensors
            if key not in used and not key.endswith(COPY)
        ]

    def _adapts(self, module: str) -> bool:
        return module.removeprefix(WRAPPER) in self.modules

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """Settings of each adapted module, by name."""
        settings = self.settings
        if settings is None:
            return {}
        return {name: settings.of(name) for name in self.modules}

    @property
    def methods(self) -> tuple[str, ...]:
        """The method of the folder, e.g. `("lora",)`."""
        if not self.is_lora:
            return (str(self.config.get("peft_type")),)
        return ("dora" if self.config.get("use_dora") is True else "lora",)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of modules that are saved whole."""
        return tuple(dict.fromkeys(k.rpartition(".")[0] for k in self.saved))

    @property
    def parameters(self) -> int:
        """Number of values in the folder."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @cached_property
    def settings(self) -> LowRank | None:
        """The settings of its modules; None where they are malformed."""
        return None if malformed(self.config) else LowRank(self.config)

    @property
    def is_lora(self) -> bool:
        """Whether it is a LoRA of some kind at all."""
        return self.config.get("peft_type") == "LORA"

    @cached_property
    def problems(self) -> list[str]:
        """Says what of the folder is refused, whatever the base is."""
        problems = unsupported(self.config)
        if not self.is_lora:
            return problems
        problems += malformed(self.config)
        for module in self.modules.values():
            problems += module.problems(self.settings)
        problems += [
            f"{key}: dtype {dtype} is not supported"
            for key, (dtype, _) in self.tensors.items()
            if dtype not in FLOATS
        ]
        problems += [
            f"{key[:LONGEST_NAME]}...: a name of {len(key)} characters"
            for key in self.tensors
            if len(key) > LONGEST_NAME
        ]
        problems += [f"{key}: there are two of it" for key in self._doubles]
        if not self.modules:
            problems.append(f"{TENSORS} holds no lora_A and lora_B")
        return problems

    def __str__(self) -> str:
        base = self.config.get("base_model_name_or_path") or "not named"
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.parameters:,} values, "
            f"PEFT {self.version or 'of unknown version'}",
            f"methods: {', '.join(self.methods)}",
            f"base: {base}",
        ]
        if self.trained:
            lines.append(f"saved whole: {shorten(self.trained)}")
        if self.problems:
            lines.append(f"not loaded here ({len(self.problems)}):")
            return printable(
                "\n".join([*lines, *(f"  {p}" for p in self.problems[:100])])
            )
        lines.append(f"adapted modules ({len(self.modules)}):")
        for name, settings in self.layers.items():
            size = rank_and_alpha(settings, {})
            lines.append(f"  {name}: {settings['method']}, {size}")
        return printable("\n".join(lines))


def read_folder(folder: str | os.PathLike[str]) -> PeftInfo:
    """Reads a folder's config and header; no tensor is loaded.

    Raises:
        ValueError: Something is missing, malformed or too large.
    """
    folder = Path(folder)
    what = f"{folder} was not read"
    config = _config(folder / CONFIG, what)
    path = folder / TENSORS
    if not path.exists():
        if (folder / PICKLE).exists():
            raise ValueError(
                f"{what}: {PICKLE} is a pickle, which can run any code; save "
                f"the adapter as {TENSORS} in PEFT"
            )
        found = shorten(sorted(p.name for p in folder.glob("*.safetensors")))
        raise ValueError(f"{what}: there is no {TENSORS} (found: {found})")
    size = safetensors_size(path, what)
    with opened(path, what, "it is truncated or no safetensors file") as file:
        text, tensors = header_of(file)
    return PeftInfo(
        path=str(folder),
        bytes=size,
        version=str(config.get("peft_version") or ""),
        config=config,
        tensors=tensors,
        digest=header_digest(text, tensors),
    )


def read_peft_tensors(info: PeftInfo, keys: list[str]) -> dict[str, np.ndarray]:
    """Loads some tensors of a folder, as float32 where they are shorter."""
    what = f"{info.path} was not loaded"
    path = Path(info.path) / TENSORS
    with opened(path, what, "it cannot be read") as file:
        if header_digest(*header_of(file)) != info.digest:
            raise ValueError("it has changed since its header was read")
        return {key: widened(file.get_tensor(key)) for key in keys}


def widened(value: np.ndarray) -> np.ndarray:
    """A value of 16 bits in float32; others as they are."""
    return value.astype("float32") if value.dtype.itemsize == 2 else value


def _config(path: Path, what: str) -> dict[str, Any]:
    """The config, once it is known to be a JSON object of some size."""
    try:
        config = json.loads(read_regular(path, MAX_CONFIG).decode())
    except OSError as error:
        raise ValueError(f"{what}: {path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        message = printable(f"{path.name}: {error}")
        raise ValueError(f"{what}: {message}") from error
    if not isinstance(config, dict) or too_deep(config):
        raise ValueError(f"{what}: {path.name} is no JSON object, or too deep")
    return config
