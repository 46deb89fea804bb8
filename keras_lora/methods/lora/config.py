"""What low-rank weights to attach where, and how targets are matched."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from keras_lora.errors import refuse
from keras_lora.methods.lora.init import Start, start_of, wrong_init
from keras_lora.settings import (
    positive_int,
    positive_number,
    share,
    wrong_choice,
    wrong_layers,
    wrong_targets,
)

Targets = str | Sequence[str]
Blocks = slice | Sequence[int]
ALL_LINEAR = "all-linear"
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
        refuse(type(self).__name__, self.problems())

    def problems(self) -> list[str]:
        """Says which settings are out of their range."""
        problems = positive_int("rank", self.rank)
        problems += positive_number("alpha", self.alpha)
        problems += share("dropout", self.dropout)
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
        alpha = float(first_match(self.alpha_pattern, path, self.alpha))
        return {
            "method": self.method,
            "rank": rank,
            "alpha": alpha * SCALES[self.scale](rank),
            "dropout": float(self.dropout),
        }


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
            `"svd"` (PiSSA), `"svd-minor"` (MiLoRA): at the largest, or
            smallest, part of rank `rank` of each base kernel, which stays as
            it is: the update counts from there. Saved as a plain LoRA of
            twice the rank. `EVA(batches)`: `A` from activations.

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

    init: str | Start = "random"

    def __post_init__(self) -> None:
        refuse("LoRAConfig", [*self.problems(), *wrong_init(self.init)])

    @property
    def method(self) -> str:  # type: ignore[override]
        """The method of the layers, which follows from how they start."""
        return start_of(self.init).method


def matches(entry: str, path: str) -> bool:
    """Whether a list's entry names the layer at `path`."""
    return path == entry or path.endswith("/" + entry)


def pattern_matches(key: str, path: str) -> bool:
    """Whether a pattern's key matches `path` or the end of it."""
    return re.fullmatch(f"(?:.*/)?(?:{key})", path) is not None


def first_match(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value of the first key of `pattern` that matches `path`."""
    for key, value in pattern.items():
        if pattern_matches(key, path):
            return value
    return default


def select(
    targets: Targets, paths: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Matches names or a regular expression against layer paths.

    Returns:
        The paths that match, in their order, and the entries that match none.
    """
    paths = list(paths)
    if isinstance(targets, str):
        found = [path for path in paths if re.fullmatch(targets, path)]
        return found, [] if found else [targets]
    chosen = {
        entry: {path for path in paths if matches(entry, path)}
        for entry in targets
    }
    union = set().union(*chosen.values())
    found = [path for path in paths if path in union]
    return found, [entry for entry, hit in chosen.items() if not hit]
