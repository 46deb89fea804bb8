"""What is known of an adapted model; each call finds it once."""

from functools import cached_property
from typing import Any

from keras_lora.methods.host import AdapterHost
from keras_lora.model import surgery
from keras_lora.model.paths import own_variables, structural_paths
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.member import is_host
from keras_lora.rewrite.membership import Base, member_of, membership


class Adapted:
    """An adapted base, as it is found in a model.

    Args:
        model: The base, or a model that it is nested in.

    Attributes:
        model: The model.
        walk: The model's layers, itself included.
        layers: Those of the base, by their path in the base.
    """

    def __init__(self, model: Layer) -> None:
        self.model = model
        self.walk = surgery.every_layer(model)
        self._members = [la for la in self.walk if membership(la) is not None]
        self.layers = {member_of(la).path: la for la in self._members}

    def __bool__(self) -> bool:
        """Whether the model has any adapter."""
        return bool(self.layers)

    @property
    def base(self) -> Base:
        """What the layers of the base share."""
        return member_of(self._members[0]).base

    @cached_property
    def hosts(self) -> dict[str, Any]:
        """The layers with injected adapter weights, by path in the base."""
        return {p: layer for p, layer in self.layers.items() if is_host(layer)}

    @cached_property
    def all_layers(self) -> list[Layer]:
        """The layers of the base, those outside of the model included.

        A base that was flattened into an outer model is not a layer of it.
        """
        found = {id(layer): layer for layer in self._members}
        for layer in self._members:
            found |= {id(la): la for la in member_of(layer).attached_with}
        return [la for la in found.values() if membership(la) is not None]

    @cached_property
    def root(self) -> Layer | None:
        """The base itself, unless it was flattened into the model."""
        if "" in self.layers:
            return self.layers[""]
        for candidate in self.walk:
            paths = structural_paths(candidate)
            if all(paths.get(p) is la for p, la in self.layers.items()):
                extra = any(
                    membership(layer) is None and own_variables(layer)
                    for layer in paths.values()
                )
                return None if extra else candidate
        return None

    @property
    def problems(self) -> list[str]:
        """Says why this is not one adapted base, whole.

        What is done to a part would leave the rest adapted by halves.
        """
        if not self:
            return [self._no_adapter()]
        uids = {member_of(layer).base.uid for layer in self._members}
        if len(uids) > 1 or len(self._members) > len(self.layers):
            several = "the model holds several adapted bases"
            return [f"{several}: take each by itself"]
        return [
            f"{path}: not in the given model, which is a part of the adapted "
            "one"
            for path in (*self.base.hosts, *self.base.trained)
            if path not in self.layers
        ]

    @property
    def switched_off(self) -> list[str]:
        """Says whether values are put aside by `disabled`."""
        if any(member_of(layer).off_depth for layer in self._members):
            return ["the adapter is switched off by `disabled`"]
        return []

    @property
    def without_originals(self) -> list[str]:
        """Trained layers of the base whose values before training are lost.

        They are not in a `.keras` file.
        """
        return [
            f"{path}: its values before training are not known here"
            for path, layer in self.layers.items()
            if path in member_of(layer).base.trained
            and own_variables(layer)
            and member_of(layer).originals is None
        ]

    def _no_adapter(self) -> str:
        if any(isinstance(layer, AdapterHost) for layer in self.walk):
            return (
                f"{self.model.name!r} has layers with adapter weights built "
                "by hand; only what `inject` attached can be handled here"
            )
        return f"{self.model.name!r} has no adapter: `inject` attaches one"
