"""A PEFT folder as one of our adapter files would have it, for a given base."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_lora.errors import shorten
from keras_lora.files.format import not_finite
from keras_lora.methods.lora.config import quantized
from keras_lora.model import surgery
from keras_lora.model.paths import join, own_variables
from keras_lora.model.surgery import Layer
from keras_lora.peft.config import Config
from keras_lora.peft.folder import PeftInfo, read_peft_tensors
from keras_lora.peft.hub import Port
from keras_lora.peft.module import Module
from keras_lora.peft.names import numbered
from keras_lora.peft.origin import Origin
from keras_lora.peft.trace import Matrix, Part

Array = np.ndarray
NO_LANGUAGE = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""Tasks whose models do not give words by the table that they read."""
LANGUAGE = re.compile("(Causal|Masked|Seq2Seq)LM|LMHead|Generation|PreTrain")
"""In the names of torch classes whose models do."""


@dataclass
class Translation:
    """What a folder comes to on a base.

    Attributes:
        info: The folder.
        settings: Of each adapted layer, by path.
        parts: The module and the share of it of each adapted layer.
        ports: The weights of each tensor that is saved whole, by its key.
        outside: Keys of the tensors of the base's outside, by module and
            weight.
        problems: What speaks against it.
    """

    info: PeftInfo
    origin: Origin
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, tuple[Module, Part]] = field(default_factory=dict)
    ports: dict[str, list[Port]] = field(default_factory=dict)
    outside: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def trained(self) -> list[str]:
        """Paths of the base's layers that are saved whole."""
        paths = [p.path for some in self.ports.values() for p in some]
        return list(dict.fromkeys(paths))

    def read(self) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
        """Loads the tensors.

        Returns:
            Those of the base, by their key in an adapter file; and those of
            the outside as they are, by module and weight.

        Raises:
            ValueError: A value is not finite, or the folder has changed.
        """
        keys = [key for m, _ in self.parts.values() for key in m.keys.values()]
        keys += list(self.ports)
        keys += [key for own in self.outside.values() for key in own.values()]
        theirs = read_peft_tensors(self.info, list(dict.fromkeys(keys)))
        self.problems += not_finite(theirs)
        values: dict[str, Array] = {}
        if self.problems:
            return values, {}
        for path, (module, part) in self.parts.items():
            for name, value in self._factors(path, module, part, theirs):
                values[join(path, name)] = value
        for key, ports in self.ports.items():
            for port in ports:
                self._fill(values, port, theirs[key])
        for path in self.trained:
            for name, own in own_variables(self.origin.layers[path]).items():
                values.setdefault(join(path, name), to_numpy(own))
        return values, {
            module: {name: theirs[key] for name, key in own.items()}
            for module, own in self.outside.items()
        }

    def _factors(
        self, path: str, module: Module, part: Part, theirs: dict[str, Array]
    ) -> Any:
        own = {name: theirs[key] for name, key in module.keys.items()}
        yield "lora_a", as_float32(own["lora_A"].T[part.rows_in])
        yield "lora_b", as_float32(own["lora_B"].T[:, part.rows_out])
        if "lora_magnitude_vector" in own:
            length = own["lora_magnitude_vector"].ravel()[part.rows_out]
            before = column_lengths(self.origin.layers[path])
            yield "magnitude", as_float32(length - before)

    def _fill(self, values: dict[str, Array], port: Port, theirs: Any) -> None:
        variable = own_variables(self.origin.layers[port.path])[port.name]
        try:
            value = port.through(theirs)
        except (ValueError, IndexError) as error:
            self.problems.append(f"{port.key}: {error}")
        else:
            dtype = to_numpy(variable).dtype
            values[join(port.path, port.name)] = value.astype(dtype)


def translate(info: PeftInfo, origin: Origin) -> Translation:
    """Finds out where everything of a folder goes, from its header alone."""
    found = Translation(info, origin, problems=list(info.problems))
    if not info.is_lora:
        return found
    for module in info.modules.values():
        place_module(found, module, not module.problems(None))
    for name, key in info.saved.items():
        place_tensor(found, name, key)
    found.problems += missing_blocks(info, origin)
    found.problems += [
        f"{path}: it is adapted and saved whole, too"
        for path in found.trained
        if path in found.parts
    ]
    if info.settings is not None:
        for path, (module, _) in found.parts.items():
            found.settings[path] = info.settings.of(module.name)
        if info.settings.method == "dora":
            found.problems += quantized(origin.layers, list(found.parts))
    return found


def place_module(found: Translation, module: Module, sound: bool) -> None:
    """Finds the layers of an adapted module."""
    try:
        parts = found.origin.parts_of(module.name)
    except ValueError as error:
        found.problems.append(str(error))
        return
    if not parts:
        if sound:
            found.problems.append(no_layer(found.origin, module))
        return
    here = len(parts[0].rows_in), sum(len(part.rows_out) for part in parts)
    if sound and module.sizes != here:
        found.problems.append(
            f"{module.name}: its weight is {module.sizes[::-1]}, the base's "
            f"{here[::-1]}"
        )
    elif sound and module.rank > 4 * sum(here):
        found.problems.append(
            f"{module.name}: rank {module.rank} of a weight {here[::-1]}"
        )
    for part in parts:
        other = found.parts.setdefault(part.path, (module, part))[0]
        if other is not module:
            found.problems.append(
                f"{module.name} and {other.name} are both {part.path}"
            )


def no_layer(origin: Origin, module: Module) -> str:
    """Says why a module is adapted that is no linear layer here."""
    try:
        known = origin.ports_of(f"{module.name}.weight")
    except ValueError:
        known = []
    if known:
        kind = type(origin.layers[known[0].path]).__name__
        return (
            f"{module.name}: it is {known[0].path!r} here, a {kind}, which "
            "takes no factors of its own"
        )
    names = shorten(origin.parts, 6)
    return (
        f"{module.name}: no layer of this base comes from it "
        f"(those that do: {names})"
    )


def missing_blocks(info: PeftInfo, origin: Origin) -> list[str]:
    """Says which blocks of this base should be adapted and are not.

    A target that is named for every block, in a folder that has it for some,
    is a part of an adapter, or one for a base of fewer blocks.
    """
    config = info.config
    targets = config.get("target_modules")
    if not isinstance(targets, list) or any(
        config.get(name) not in (None, [], "")
        for name in ("layers_to_transform", "layers_pattern", "exclude_modules")
    ):
        return []
    there = {origin.module(name) or name for name in info.modules}
    kinds = {re.sub(r"\d+", "#", name) for name in there}
    ends = {t for t in targets if isinstance(t, str) and not numbered(t)}
    missing = [
        name
        for name in origin.parts
        if name not in there
        and re.sub(r"\d+", "#", name) in kinds
        and any(name == end or name.endswith("." + end) for end in ends)
    ]
    if not missing:
        return []
    return [
        "the folder has nothing for some modules that `target_modules` names, "
        "so a part of it is missing or it is for a base of fewer blocks: "
        + shorten(missing, 6)
    ]


def place_tensor(found: Translation, name: str, key: str) -> None:
    """Finds the weights of a tensor that is saved whole."""
    info, origin = found.info, found.origin
    try:
        ports = origin.ports_of(name)
    except ValueError as error:
        found.problems.append(str(error))
        return
    module, _, weight = name.rpartition(".")
    if not ports and numbered(name):
        found.problems.append(f"{name}: no layer of this base comes from it")
        return
    if not ports:
        found.outside.setdefault(module, {})[weight] = key
        return
    shape = info.tensors[key][1]
    sizes = [int(np.prod(port.shape)) for port in ports]
    if int(np.prod(shape)) not in (sum(sizes), sizes[0]):
        found.problems.append(
            f"{name}: shape {shape}; {ports[0].path!r} has {ports[0].shape}"
        )
        return
    found.problems += tied(found, ports[0], name)
    found.ports[key] = ports


def tied(found: Translation, port: Port, name: str) -> list[str]:
    """Says whether a table is saved that gives a language model's output, too.

    PEFT trains a copy for the input side; the layer here has one for both.
    """
    layer = found.origin.layers[port.path]
    config = found.info.config
    if (
        port.name != "embeddings"
        or not getattr(layer, "tie_weights", False)
        or config.get("ensure_weight_tying")
        or config.get("task_type") in NO_LANGUAGE
        or not may_give_language(config)
    ):
        return []
    return [
        f"{name}: saved for the input alone; here {port.path!r} is tied to "
        "the output, which would change with it (ensure_weight_tying)"
    ]


def may_give_language(config: Config) -> bool:
    """Whether a folder's torch class may be a language model."""
    found = config.get("auto_mapping")
    name = found.get("base_model_class") if isinstance(found, dict) else None
    return not isinstance(name, str) or LANGUAGE.search(name) is not None


def column_lengths(layer: Layer) -> Array:
    """The length of each column of a linear layer's kernel (out,)."""
    kernel = Matrix(layer).of(to_numpy(surgery.kernel_of(layer)))
    squares = np.square(kernel.astype("float32"))
    return np.sqrt(squares.sum(axis=0, dtype="float64"))


def as_float32(value: Array) -> Array:
    """A value as adapter weights are stored."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(value, "float32")


def to_numpy(variable: Any) -> Array:
    """A variable's values; those of 16 bits in float32 where numpy has none."""
    return ops.convert_to_numpy(ops.convert_to_tensor(variable))
