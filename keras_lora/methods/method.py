"""What a method of fine-tuning is: one value that says all of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from keras_lora.methods.stack import Settings, Stack
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer

SettingsOf = dict[str, Settings]
"""Those of several layers, by path."""
Widths = dict[str, int | str]
Fill = Callable[[dict[str, Any]], None]
Begin = Callable[[Layer, dict[str, Layer], SettingsOf], tuple[SettingsOf, Fill]]


def as_initialized(
    root: Layer, targets: dict[str, Layer], settings: SettingsOf
) -> tuple[SettingsOf, Fill]:
    """For weights that start as their initializers say."""
    return settings, lambda hosts: None


@dataclass
class Plan:
    """What a config comes to on a model.

    Attributes:
        settings: Of each target, by its path.
        problems: What speaks against it.
        begin: Looks at the base, the targets and their settings before
            anything is attached; gives the settings to attach with, and what
            fills the hosts' weights then.
    """

    settings: SettingsOf = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    begin: Begin = as_initialized


class Config(Protocol):
    """What to attach, and where."""

    @property
    def method(self) -> str:
        """The name of the method."""

    def plan(
        self, method: "Method", layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Finds what to attach to layers by path, some of which train."""


def no_widths(layer: Layer) -> Widths:
    """For methods whose sizes follow from the host's kernel."""
    return {}


def always(settings: Settings) -> list[str]:
    """For methods with no setting that only the installed Keras can judge."""
    return []


def each_alone(settings: SettingsOf, layers: Layers) -> list[str]:
    """For methods whose layers have nothing to do with each other."""
    return []


@dataclass(frozen=True)
class Method:
    """One kind of adapter.

    Attributes:
        name: What files, `summary` and settings call it.
        config: The class whose instances `inject` takes for it.
        layer: Gives the class that makes a layer a host, or None for a layer
            that cannot be one.
        size: Gives the size of an adapter, for people.
        check: Says what of the settings in a file is missing or out of range;
            None for a method that is stored as another one.
        stack: How a bank serves it; None where none does.
        widths: Gives settings that follow from the layer; one that cannot be
            known is a sentence that says why.
        misfit: Says what of the settings this Keras does not know.
        reads_kernel: Whether it needs the values of a float kernel.
        together: Says why what a file has for all layers of the method, by
            path, is not one adapter on a base's layers.
    """

    name: str
    config: type
    layer: Callable[[Layer], type | None]
    size: Callable[[Settings, dict[str, Any]], str]
    check: Callable[[Settings], list[str]] | None = None
    stack: type[Stack] | None = None
    widths: Callable[[Layer], Widths] = no_widths
    misfit: Callable[[Settings], list[str]] = always
    reads_kernel: bool = False
    together: Callable[[SettingsOf, Layers], list[str]] = each_alone

    def misfits(
        self, path: str, settings: Settings, widths: Widths
    ) -> list[str]:
        """Says why a layer does not have what a file's settings say of it."""
        return self.misfit(settings) + [
            f"{path}: the file's {name} is {settings[name]}, the layer's {here}"
            for name, here in widths.items()
            if settings[name] != here
        ]
