"""`adapter_config.json`: what of it is read, and what is refused."""

import math
from collections.abc import Mapping
from typing import Any

from keras_lora.files.sizes import LARGEST
from keras_lora.methods.lora.low_rank import low_rank_settings
from keras_lora.peft.patterns import Patterns, wrong_patterns
from keras_lora.settings import positive_int, positive_number, share

Config = Mapping[str, Any]
READ = (
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
)
NEUTRAL = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
)
"""Settings of training or of torch: the tensors say what came of them."""
UNSET: tuple[Any, ...] = (None, False, 0, "", [], {})
KEEPS_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's own weights alone."""


def unsupported(config: Config) -> list[str]:
    """Says which settings have no like here, by their names."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"peft_type={kind!r} is not supported: LORA alone is"]
    bias = config.get("bias")
    start = config.get("init_lora_weights")
    problems = []
    if bias not in (None, "none"):
        problems.append(f"bias={bias!r} is not supported: 'none' alone is")
    if start not in KEEPS_THE_BASE:
        problems.append(
            f"init_lora_weights={start!r}: it changes the base's own weights, "
            "and those are not in the folder; convert it to a plain LoRA when "
            "you save it in PEFT"
        )
    return problems + [
        f"{name}={value!r} is not supported"
        for name, value in config.items()
        if name not in READ + NEUTRAL and value not in UNSET
    ]


def malformed(config: Config) -> list[str]:
    """Says which settings that are read are out of their range."""
    problems = positive_rank("r", config.get("r", 8))
    problems += positive_number("lora_alpha", config.get("lora_alpha", 8))
    problems += share("lora_dropout", config.get("lora_dropout") or 0.0)
    for name in ("use_rslora", "use_dora"):
        if config.get(name) not in (None, True, False):
            problems.append(f"`{name}` must be true or false")
    for name, check in (
        ("rank_pattern", positive_rank),
        ("alpha_pattern", positive_number),
    ):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            problems.append(f"`{name}` must be a dict")
            continue
        problems += wrong_patterns(name, patterns)
        for key, value in patterns.items():
            problems += check(f"{name}[{key!r}]", value)
    return problems


def positive_rank(name: str, value: Any) -> list[str]:
    """Says what keeps a value from being a rank; JSON's ints have no end."""
    return positive_int(name, value, LARGEST)


class LowRank:
    """The settings of each module, from a config that is not refused."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ranks = Patterns(config.get("rank_pattern") or {})
        self._alphas = Patterns(config.get("alpha_pattern") or {})
        self.method = "dora" if config.get("use_dora") else "lora"

    def rank(self, module: str) -> int:
        """The rank of a module."""
        return int(self._ranks.first(module, self._config.get("r", 8)))

    def of(self, module: str) -> dict[str, Any]:
        """A module's settings, as they stand in an adapter file."""
        config, rank = self._config, self.rank(module)
        alpha = self._alphas.first(module, config.get("lora_alpha", 8))
        if config.get("use_rslora"):
            alpha = alpha * math.sqrt(rank)
        dropout = config.get("lora_dropout") or 0.0
        return low_rank_settings(self.method, rank, alpha, dropout)
