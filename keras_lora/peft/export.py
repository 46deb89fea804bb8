"""An adapter of ours as the tensors and the config of a PEFT folder."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_lora.model.paths import Layers, join
from keras_lora.peft.hub import Port
from keras_lora.peft.names import WRAPPER
from keras_lora.peft.trace import DIGITS, Matrix, Part

Array = np.ndarray
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Target:
    """A linear module, and the layers that its weight goes to.

    Attributes:
        size_in: Width of its input.
        size_out: Width of its output.
        parts: The share of each layer.
    """

    size_in: int
    size_out: int
    parts: list[Part]


@dataclass
class Export:
    """What an adapter comes to in a PEFT folder.

    Attributes:
        tensors: By their key in the folder.
        scales: Of each module, by name.
        saved: Names of modules that are saved whole.
        dropout: The largest in use.
        transposed: Whether a module's weight is (in, out) in torch.
        problems: What has no like there.
    """

    tensors: Arrays = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    dropout: float = 0.0
    transposed: bool = False
    problems: list[str] = field(default_factory=list)

    def config(self, **given: Any) -> dict[str, Any]:
        """`adapter_config.json`.

        One scale holds for all modules, since some servers read no more than
        `r` and `lora_alpha`; what another module's scale differs by is in its
        `lora_B` then.
        """
        (scale, _), *_ = Counter(self.scales.values()).most_common(1)
        ranks = {}
        for name, own in self.scales.items():
            a, b = (f"{WRAPPER}{name}.lora_{n}.weight" for n in "AB")
            ranks[name] = len(self.tensors[a])
            if own != scale:
                value = self.tensors[b].astype("float64") * (own / scale)
                self.tensors[b] = value.astype("float32")
        rank = max(ranks.values())
        others = {n: r for n, r in sorted(ranks.items()) if r != rank}
        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": plain_number(scale * rank),
            "rank_pattern": others,
            "alpha_pattern": {
                name: plain_number(scale * r) for name, r in others.items()
            },
            "target_modules": sorted(ranks),
            "modules_to_save": sorted(set(self.saved)) or None,
            "bias": "none",
            "use_rslora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            **given,
        }


def plain_number(value: float) -> float | int:
    """A number as an int where it is one."""
    return int(value) if float(value).is_integer() else float(value)


def prefixed(prefix: str, name: str) -> str:
    """A name as the torch class has it; some converters' have the prefix.

    A language model's output layer stands beside what the prefix is of.
    """
    beside = name.startswith((prefix, "lm_head."))
    return name if beside or name == "lm_head" else prefix + name


def put_modules(
    export: Export,
    targets: Mapping[str, Target],
    settings: Mapping[str, dict[str, Any]],
    tensors: Arrays,
    lengths: Callable[[str], Array],
    prefix: str,
) -> None:
    """Adds the factors of every adapted layer.

    Args:
        export: What they are added to.
        targets: The linear modules by name.
        settings: Of each adapted layer, by path.
        tensors: Their weights, by key in an adapter file.
        lengths: Gives the lengths of the columns of a layer's kernel (out,).
        prefix: What goes before the names of modules.
    """
    methods = {own["method"] for own in settings.values()}
    for path, own in settings.items():
        if own["method"] not in ("lora", "dora"):
            export.problems.append(
                f"{path}: {own['method']} has no like in a PEFT folder; lora "
                "and dora have"
            )
    if {"lora", "dora"} <= methods:
        export.problems.append("DoRA on some layers and LoRA on others")
    placed = set()
    for module, target in targets.items():
        mine = [part for part in target.parts if part.path in settings]
        placed |= {part.path for part in mine}
        if mine and not export.problems:
            name = prefixed(prefix, module)
            put_factors(export, name, target, mine, settings, tensors)
            if "dora" in methods:
                length = np.empty(target.size_out, "float32")
                for part in target.parts:
                    more = tensors.get(join(part.path, "magnitude"), 0.0)
                    length[part.rows_out] = lengths(part.path) + more
                key = f"{WRAPPER}{name}.lora_magnitude_vector"
                export.tensors[key] = length
    export.problems += [
        f"{path}: it comes from no linear module that is known"
        for path in settings
        if path not in placed
    ]


def put_factors(
    export: Export,
    name: str,
    target: Target,
    mine: Sequence[Part],
    settings: Mapping[str, dict[str, Any]],
    tensors: Arrays,
) -> None:
    """Adds one module's factors.

    Layers of one module that share `A` and the scale share a rank there, too;
    the ranks of others stand side by side.
    """
    a_of, b_of, scales = [], [], []
    for part in mine:
        own = settings[part.path]
        a = tensors[join(part.path, "lora_a")]
        b = tensors[join(part.path, "lora_b")]
        theirs_a = np.zeros((a.shape[1], target.size_in), "float32")
        theirs_b = np.zeros((target.size_out, b.shape[0]), "float32")
        theirs_a[:, part.rows_in] = a.T
        theirs_b[part.rows_out] = b.T
        a_of.append(theirs_a)
        b_of.append(theirs_b)
        scales.append(own["alpha"] / own["rank"])
    scale = scales[0]
    if set(scales) != {scale}:
        scaled = zip(b_of, scales, strict=True)
        b_of = [(b * (own / scale)).astype("float32") for b, own in scaled]
    if all(np.array_equal(a, a_of[0]) for a in a_of):
        joined_a, joined_b = a_of[0], np.sum(b_of, axis=0, dtype="float32")
    else:
        joined_a, joined_b = np.concatenate(a_of), np.concatenate(b_of, axis=1)
    export.tensors[f"{WRAPPER}{name}.lora_A.weight"] = joined_a
    export.tensors[f"{WRAPPER}{name}.lora_B.weight"] = joined_b
    export.scales[name] = scale
    export.transposed |= mine[0].transposed
    export.dropout = max(
        [export.dropout, *(settings[part.path]["dropout"] for part in mine)]
    )


def put_whole(
    export: Export,
    targets: Mapping[str, Target],
    ports: Mapping[str, Sequence[Port]],
    layers: Layers,
    tensors: Arrays,
    prefix: str,
) -> None:
    """Adds the weights of layers that trained as they are."""
    wanted = set(tensors)
    for key, some in ports.items():
        names = [join(port.path, port.name) for port in some]
        values = [tensors[name] for name in names if name in tensors]
        if not values:
            continue
        module = key.rpartition(".")[0]
        whole = None
        if len(values) == len(some):
            kernel = key.endswith(".weight") and module in targets
            whole = (
                as_weight(targets[module], values, layers)
                if kernel
                else restored(some, values)
            )
        if whole is None:
            export.problems.append(f"{key}: it did not train as a whole")
            continue
        export.tensors[WRAPPER + prefixed(prefix, key)] = whole
        export.saved.append(prefixed(prefix, module))
        wanted -= set(names)
    export.problems += [
        f"{key}: it trained, and comes from no tensor that is known"
        for key in sorted(wanted)
    ]


def as_weight(target: Target, kernels: list[Array], layers: Layers) -> Array:
    """A linear module's weight, of the kernels of its layers."""
    weight = np.zeros((target.size_out, target.size_in), kernels[0].dtype)
    for part, kernel in zip(target.parts, kernels, strict=True):
        matrix = Matrix(layers[part.path]).of(kernel)
        weight[np.ix_(part.rows_out, part.rows_in)] = matrix.T
    return weight.T if target.parts[0].transposed else weight


def restored(ports: Sequence[Port], values: Sequence[Any]) -> Array | None:
    """The tensor that became some weights, or None.

    The numbers of its elements are sent the way that it came.
    """
    if len(ports) == 1 and ports[0].hook is None:
        return np.asarray(values[0])
    total = sum(value.size for value in values)
    shapes: list[tuple[int, ...]] = [(total,)]
    if len(ports) == 1 and len(ports[0].shape) <= 4:
        shapes += itertools.permutations(ports[0].shape)
    for shape in dict.fromkeys(shapes):
        try:
            places = [numbers_through(port, shape) for port in ports]
        except (ValueError, IndexError):
            continue
        order = np.concatenate([place.ravel() for place in places])
        if np.array_equal(np.sort(order), np.arange(total)):
            flat = np.empty(total, values[0].dtype)
            flat[order] = np.concatenate([value.ravel() for value in values])
            return flat.reshape(shape)
    return None


def numbers_through(port: Port, shape: tuple[int, ...]) -> Array:
    """Where each element of a tensor of some shape ends up in a weight."""
    count = int(np.prod(shape))
    found = np.zeros(port.shape, "int64")
    place = 1
    while place < count or place == 1:
        digits = (np.arange(count) // place % DIGITS).astype("float32")
        found += port.through(digits.reshape(shape)).astype("int64") * place
        place *= DIGITS
    return found
