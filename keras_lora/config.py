"""What to attach and where: the two configs, and how targets are matched."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_lora.problems import refuse

Targets = str | Sequence[str]
ALL_LINEAR = "all-linear"


def positive_int(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being an int above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return [f"`{name}` must be an int above 0. Received: {name}={value!r}"]
    return []


def positive_number(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        return [
            f"`{name}` must be a finite number above 0. "
            f"Received: {name}={value!r}"
        ]
    return []


def share(name: str, value: Any) -> list[str]:
    """Says what keeps `value` from being a dropout rate."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        return [f"`{name}` must be in [0, 1). Received: {name}={value!r}"]
    return []


def wrong_targets(targets: Any, name: str = "targets") -> list[str]:
    """Says what keeps `targets` from being names or a regular expression."""
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            return [f"`{name}` is no regular expression ({error}): {targets!r}"]
        return []
    if (
        isinstance(targets, list | tuple)
        and targets
        and all(isinstance(entry, str) and entry for entry in targets)
    ):
        return []
    return [
        f"`{name}` must be a string or a list of layer names, and not empty. "
        f"Received: {name}={targets!r}"
    ]


@dataclass(frozen=True)
class LoRAConfig:
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

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    config = keras_lora.LoRAConfig(rank=4, targets=["query", "value"])
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: Targets = ALL_LINEAR
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    method = "lora"

    def __post_init__(self) -> None:
        problems = positive_int("rank", self.rank)
        problems += positive_number("alpha", self.alpha)
        problems += share("dropout", self.dropout)
        problems += wrong_targets(self.targets)
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
        refuse("LoRAConfig", problems)

    @property
    def patterns(self) -> dict[str, list[str]]:
        """The keys that have to match a target, by the setting's name."""
        return {
            "rank_pattern": list(self.rank_pattern),
            "alpha_pattern": list(self.alpha_pattern),
        }

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        return {
            "method": self.method,
            "rank": first_match(self.rank_pattern, path, self.rank),
            "alpha": float(first_match(self.alpha_pattern, path, self.alpha)),
            "dropout": float(self.dropout),
        }


@dataclass(frozen=True)
class AdapterConfig:
    """Bottleneck adapters on the outputs of chosen layers.

    Each target's output `y` becomes `y + up(activation(down(y)))`, where `up`
    starts at zero.

    Args:
        bottleneck: Int above 0, the inner width; None for the output's width
            divided by `reduction_factor`.
        reduction_factor: Number above 0; not used where `bottleneck` is given.
        activation: Name of a Keras activation.
        targets: Which layers, as in `LoRAConfig`. None: the feed-forward
            outputs of KerasHub's transformer blocks.
        dropout: Share of the adapter's input dropped in training, in [0, 1).
        layer_norm: Whether the adapter's input is layer-normalized first.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Example:

    ```python
    config = keras_lora.AdapterConfig(bottleneck=24)
    ```

    References:
        - [Parameter-Efficient Transfer Learning for NLP](
          https://arxiv.org/abs/1902.00751)
        - [AdapterFusion](https://arxiv.org/abs/2005.00247)
    """

    bottleneck: int | None = None
    reduction_factor: float = 16
    activation: str = "relu"
    targets: Targets | None = None
    dropout: float = 0.0
    layer_norm: bool = False

    method = "bottleneck"
    patterns: Mapping[str, list[str]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        problems = []
        if self.bottleneck is not None:
            problems += positive_int("bottleneck", self.bottleneck)
        problems += positive_number("reduction_factor", self.reduction_factor)
        problems += share("dropout", self.dropout)
        if self.targets is not None:
            problems += wrong_targets(self.targets)
        if not isinstance(self.activation, str):
            problems.append(
                "`activation` must be the name of a Keras activation. "
                f"Received: activation={self.activation!r}"
            )
        if not isinstance(self.layer_norm, bool):
            problems.append(
                "`layer_norm` must be True or False. "
                f"Received: layer_norm={self.layer_norm!r}"
            )
        refuse("AdapterConfig", problems)

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        return {
            "method": self.method,
            "bottleneck": self.bottleneck,
            "reduction_factor": float(self.reduction_factor),
            "activation": self.activation,
            "dropout": float(self.dropout),
            "layer_norm": self.layer_norm,
        }


Config = LoRAConfig | AdapterConfig


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
