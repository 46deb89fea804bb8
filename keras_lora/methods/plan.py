"""What a config comes to on a model: each target's settings."""

import functools
from dataclasses import dataclass, field
from typing import Any

from keras_lora.methods.bottleneck.config import AdapterConfig
from keras_lora.methods.ia3 import KEYS_VALUES_AND_WIDE, IA3Config
from keras_lora.methods.lora.config import (
    LoRAConfig,
    LowRankConfig,
    pattern_matches,
)
from keras_lora.methods.lora.init import Start, start_of
from keras_lora.methods.method import METHODS, Settings
from keras_lora.model.paths import join
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.checks import not_adaptable, quantized
from keras_lora.targets.blocks import in_blocks
from keras_lora.targets.find import lora_targets, output_targets

Config = LowRankConfig | IA3Config | AdapterConfig


@dataclass
class Plan:
    """What to attach.

    Attributes:
        settings: Of each target, by its path.
        problems: What speaks against it.
        start: What gives the weights their first values.
    """

    settings: dict[str, Settings] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    start: Start = field(default_factory=Start)


@functools.singledispatch
def plan(config: Any, layers: dict[str, Layer], trained: set[str]) -> Plan:
    """Finds what a config attaches to a model's layers.

    Args:
        config: A config; its class says how.
        layers: The model's layers by path.
        trained: Paths of those that train as they are.
    """
    raise ValueError(
        "`config` must be a LoRAConfig, DoRAConfig, IA3Config or "
        "AdapterConfig. "
        f"Received: config={config!r}"
    )


@plan.register
def plan_lora(
    config: LoRAConfig, layers: dict[str, Layer], trained: set[str]
) -> Plan:
    """Low-rank weights that start in one of several ways."""
    found = plan_low_rank(config, layers, trained)
    found.start = start_of(config.init)
    targets = {path: layers[path] for path in found.settings}
    found.problems += found.start.problems(targets)
    return found


@plan.register
def plan_low_rank(
    config: LowRankConfig, layers: dict[str, Layer], trained: set[str]
) -> Plan:
    """Low-rank weights on linear layers."""
    method = METHODS[config.method]
    targets, problems = lora_targets(
        layers, config.targets, trained, method.mixin
    )
    targets, outside = in_blocks(layers, targets, config.layers)
    problems += outside + not_adaptable(layers, targets)
    if method.reads_kernel:
        problems += quantized(layers, targets)
    settings = {path: config.settings_for(path) for path in targets}
    patterns = {
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
    }
    for name, pattern in patterns.items():
        problems += [
            f"{name}: {key!r} matches none of the targets"
            for key in pattern
            if not any(pattern_matches(key, path) for path in targets)
        ]
    return Plan(settings, problems)


@plan.register
def plan_factors(
    config: IA3Config, layers: dict[str, Layer], trained: set[str]
) -> Plan:
    """Factors on the outputs of linear layers."""
    targets, problems = lora_targets(
        layers,
        KEYS_VALUES_AND_WIDE if config.targets is None else config.targets,
        trained,
        METHODS[config.method].mixin,
    )
    targets, outside = in_blocks(layers, targets, config.layers)
    settings = {path: config.settings_for(path) for path in targets}
    return Plan(settings, problems + outside)


@plan.register
def plan_outputs(
    config: AdapterConfig, layers: dict[str, Layer], trained: set[str]
) -> Plan:
    """Bottlenecks on outputs, whose widths have to be known."""
    method = METHODS[config.method]
    targets, problems = output_targets(
        layers, config.targets, config.placement, trained
    )
    targets, outside = in_blocks(layers, targets, config.layers)
    problems += outside + method.misfit(config.settings_for(""))
    settings = {}
    for path in targets:
        widths = method.widths(layers[path])
        problems += [
            f"{join(path)}: {width}"
            for width in widths.values()
            if isinstance(width, str)
        ]
        settings[path] = {**config.settings_for(path), **widths}
    return Plan(settings, problems)
