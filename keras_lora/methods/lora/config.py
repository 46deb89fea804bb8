"""What low-rank weights to attach, and where."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from keras_lora.errors import raise_if
from keras_lora.methods.lora.init import Initializer, initializer_of, wrong_init
from keras_lora.methods.lora.low_rank import low_rank_settings, wrong_low_rank
from keras_lora.methods.method import Method, Plan
from keras_lora.model.surgery import Layer
from keras_lora.settings import (
    positive_int,
    positive_number,
    wrong_choice,
    wrong_layers,
    wrong_targets,
)
from keras_lora.targets import (
    ALL_LINEAR,
    Blocks,
    Targets,
    in_blocks,
    linear_targets,
)
from keras_lora.targets.names import first_match, pattern_matches

SCALES: dict[str, Callable[[int], float]] = {
    "lora": lambda rank: 1.0,
    "rslora": math.sqrt,
}
"""What `alpha / rank` is multiplied by, under the method's name."""


@dataclass(frozen=True)
class LowRankConfig:
    """What all low-rank methods have in common; see `LoRAConfig`."""

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: Targets = ALL_LINEAR
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    scale: str = "lora"
    layers: Blocks | None = None

    method: ClassVar[str]

    def __post_init__(self) -> None:
        raise_if(type(self).__name__, self.problems())

    def problems(self) -> list[str]:
        """Says which settings are out of their range."""
        problems = wrong_low_rank(vars(self))
        problems += wrong_targets(self.targets)
        problems += wrong_choice("scale", self.scale, SCALES)
        problems += wrong_layers(self.layers)
        for name, check in (
            ("rank_pattern", positive_int),
            ("alpha_pattern", positive_number),
        ):
            pattern = getattr(self, name)
            if not isinstance(pattern, Mapping):
                problems.append(
                    f"`{name}` must be a dict. Received: {name}={pattern!r}"
                )
                continue
            for key, value in pattern.items():
                problems += wrong_targets(key, f"key of {name}")
                problems += check(f"{name}[{key!r}]", value)
        return problems

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        rank = first_match(self.rank_pattern, path, self.rank)
        alpha = first_match(self.alpha_pattern, path, self.alpha)
        alpha = float(alpha) * SCALES[self.scale](rank)
        return low_rank_settings(self.method, rank, alpha, self.dropout)

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Low-rank weights on linear layers."""
        targets, problems = linear_targets(
            layers, self.targets, trained, method.layer
        )
        targets, outside = in_blocks(layers, targets, self.layers)
        problems += outside + not_adaptable(layers, targets)
        if method.reads_kernel:
            problems += quantized(layers, targets)
        for name in ("rank_pattern", "alpha_pattern"):
            problems += [
                f"{name}: {key!r} matches none of the targets"
                for key in getattr(self, name)
                if not any(pattern_matches(key, path) for path in targets)
            ]
        return Plan({p: self.settings_for(p) for p in targets}, problems)


@dataclass(frozen=True)
class LoRAConfig(LowRankConfig):
    """Low-rank adapters on chosen layers.

    Each target with kernel `W` computes `x W + (x A) B * alpha / rank`, where
    `A` is random, `B` starts at zero, and only `A` and `B` train.

    Args:
        rank: Int above 0, the inner size of `A` (in, rank) and `B`
            (rank, out).
        alpha: Number above 0, the numerator of the scale `alpha / rank`.
        dropout: Share of the adapter's input dropped in training, in [0, 1).
        targets: Which layers. `"all-linear"`: every `Dense` and `EinsumDense`
            that is not in `train`. A list: names of layers, each a whole
            layer path or the end of one (`"query"` matches
            `"block/attention/query"`). Another string: a regular expression
            that matches whole paths.
        rank_pattern: Ranks that differ from `rank`, as
            `{name or regular expression: rank}`. A key matches a whole path
            or the end of one; the first key that matches counts.
        alpha_pattern: The same for `alpha`.
        scale: `"lora"` for `alpha / rank`; `"rslora"` for
            `alpha / sqrt(rank)`, with which large ranks learn as fast as
            small ones. Files and `summary` then show the alpha whose
            `alpha / rank` is the same.
        layers: Which blocks, as a slice, a range or a list of ints:
            `slice(-2, None)` for the last two. Blocks are layers with
            sublayers of which several of one class stand side by side, the
            outermost such. Targets outside of them are left out. None: all
            targets.
        init: Where the factors start. `"random"`: `A` random, `B` zero.
            `"pissa"`, `"milora"`: at the largest, or smallest, part of rank
            `rank` of each base kernel, which stays as it is: the update
            counts from there. Saved as a plain LoRA of twice the rank; their
            older names are `"svd"` and `"svd-minor"`. `EVA(batches)`: `A`
            from activations.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    config = keras_lora.LoRAConfig(rank=4, targets=["query", "value"])
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
        - [A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA](
          https://arxiv.org/abs/2312.03732)
        - [PiSSA: Principal Singular Values and Singular Vectors Adaptation](
          https://arxiv.org/abs/2404.02948)
        - [MiLoRA: Harnessing Minor Singular Components](
          https://arxiv.org/abs/2406.09044)
    """

    init: str | Initializer = "random"

    def problems(self) -> list[str]:
        return super().problems() + wrong_init(self.init)

    @property
    def method(self) -> str:  # type: ignore[override]
        """The method of the layers, which follows from how they start."""
        return initializer_of(self.init).method

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Low-rank weights that start in one of several ways."""
        found = super().plan(method, layers, trained)
        initializer = initializer_of(self.init)
        targets = {path: layers[path] for path in found.settings}
        found.problems += initializer.problems(targets)
        found.begin = initializer.begin
        return found


def not_adaptable(layers: dict[str, Layer], targets: list[str]) -> list[str]:
    """Targets whose kernel may not change by a low-rank update."""
    return [
        f"{path}: has a kernel constraint, which an update would break"
        for path in targets
        if getattr(layers[path], "kernel_constraint", None)
        or getattr(layers[path], "embeddings_constraint", None)
    ]


def quantized(layers: dict[str, Layer], targets: list[str]) -> list[str]:
    """Targets whose kernel's values cannot be read as they are."""
    return [
        f"{path}: quantized ({layers[path].quantization_mode}), and this "
        "method computes with the kernel itself; LoRAConfig does not"
        for path in targets
        if layers[path].quantization_mode is not None
    ]
