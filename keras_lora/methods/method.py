"""The kinds of adapter there are, and what the library asks of each.

What a method does at serving time is in `stacks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_lora.methods.bottleneck.layer import Wrapped, unknown_activation
from keras_lora.methods.bottleneck.parallel import Beside, both_widths
from keras_lora.methods.dora import dora_class
from keras_lora.methods.ia3 import rescaled_class
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.lora.pissa import relative_class
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import output_width

Settings = dict[str, Any]
Widths = dict[str, int | str]


def no_widths(layer: Layer) -> Widths:
    """For methods whose sizes follow from the host's kernel."""
    return {}


def always(settings: Settings) -> list[str]:
    """For methods with no setting that only the installed Keras can judge."""
    return []


@dataclass(frozen=True)
class Method:
    """One kind of adapter.

    Attributes:
        mixin: Gives the class that makes a layer a host, or None for a layer
            that cannot be one.
        size: Gives the size of an adapter, for people.
        widths: Gives settings that follow from the layer; one that cannot be
            known is a sentence that says why.
        misfit: Says what of the settings this Keras does not know.
        reads_kernel: Whether it needs the values of a float kernel.
    """

    mixin: Callable[[Layer], type | None]
    size: Callable[[Settings, dict[str, Any]], str]
    widths: Callable[[Layer], Widths] = no_widths
    misfit: Callable[[Settings], list[str]] = always
    reads_kernel: bool = False


def rank_and_alpha(settings: Settings, weights: dict[str, Any]) -> str:
    """The size of a low-rank adapter."""
    return f"rank {settings['rank']}, alpha {settings['alpha']:g}"


def inner_width(settings: Settings, weights: dict[str, Any]) -> str:
    """The size of a bottleneck."""
    return f"bottleneck {weights['down_kernel'].shape[1]}"


def factors(settings: Settings, weights: dict[str, Any]) -> str:
    """How many factors there are."""
    return f"{weights['gain'].shape[0]} factors"


def known_activation(settings: Settings) -> list[str]:
    """Says whether Keras has no such activation."""
    return unknown_activation(settings["activation"])


METHODS: dict[str, Method] = {
    "lora": Method(lora_class, rank_and_alpha),
    "dora": Method(dora_class, rank_and_alpha, reads_kernel=True),
    "svd": Method(relative_class, rank_and_alpha, reads_kernel=True),
    "ia3": Method(rescaled_class, factors),
    "bottleneck": Method(
        lambda layer: Wrapped,
        inner_width,
        lambda layer: {"width": output_width(layer)},
        known_activation,
    ),
    "parallel": Method(
        lambda layer: Beside, inner_width, both_widths, known_activation
    ),
}


def misfits(path: str, settings: Settings, widths: Widths) -> list[str]:
    """Says why a layer does not have what a file's settings say of it."""
    return METHODS[settings["method"]].misfit(settings) + [
        f"{path}: the file's {name} is {settings[name]}, the layer's {here}"
        for name, here in widths.items()
        if settings[name] != here
    ]
