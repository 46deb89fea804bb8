"""Which Hugging Face modules and tensors a base's layers come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lora.methods.lora import lora_class
from keras_lora.model.paths import Layers, own_variables
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import LINEAR
from keras_lora.peft.hub import Hook, Port, find_backbone, ports_of
from keras_lora.peft.names import Known, Named, layer_at
from keras_lora.peft.trace import Matrix, Part, parts_of

WEIGHTS = {
    "weight": ("kernel", "gamma", "scale", "embeddings"),
    "bias": ("bias", "beta"),
}
"""What a layer may call the weights that torch calls so."""


@dataclass(frozen=True)
class Origin:
    """The names that a base's layers have in Hugging Face's model.

    Attributes:
        layers: The base's layers by path.
        parts: The layers of each linear module.
        ports: The weights of each tensor, by its key.
        named: Paths that a caller gave for modules.
    """

    layers: Layers
    parts: dict[str, list[Part]]
    ports: dict[str, list[Port]]
    named: Named

    def __post_init__(self) -> None:
        modules = dict.fromkeys(key.rpartition(".")[0] for key in self.ports)
        object.__setattr__(self, "_linear", Known(self.parts))
        object.__setattr__(self, "_modules", Known(modules))

    def module(self, name: str) -> str | None:
        """The converter's name of a linear module."""
        return self._linear.find(name)  # type: ignore[attr-defined]

    def parts_of(self, name: str) -> list[Part]:
        """The layers of a linear module; none where it is not known.

        Raises:
            ValueError: The caller's `names` lead to no linear layer.
        """
        paths = self.named.paths(name)
        if paths:
            return [*self._given(name, paths)]
        return self.parts.get(self.module(name) or "", [])

    def ports_of(self, key: str) -> list[Port]:
        """The weights of a tensor; none where it is not known.

        Raises:
            ValueError: The caller's `names` lead to no such weight.
        """
        module, _, weight = key.rpartition(".")
        paths = self.named.paths(module)
        if paths:
            return [self._given_port(key, path) for path in paths]
        known = self._modules.find(module)  # type: ignore[attr-defined]
        return self.ports.get(f"{known}.{weight}", [])

    def _given(self, name: str, paths: list[str]) -> Any:
        start = 0
        for path in paths:
            found, layer = self._layer(name, path)
            if not isinstance(layer, LINEAR):
                kind = type(layer).__name__
                raise ValueError(f"{name}: {path!r} is a {kind}, not linear")
            size_in, size_out = Matrix(layer).sizes
            rows = np.arange(start, start + size_out)
            yield Part(found, np.arange(size_in), rows)
            start += size_out

    def _given_port(self, key: str, path: str) -> Port:
        found, layer = self._layer(key, path)
        own = own_variables(layer)
        weight = key.rpartition(".")[2]
        name = next((n for n in WEIGHTS.get(weight, ()) if n in own), "")
        if not name:
            raise ValueError(f"{key}: {path!r} has no such weight")
        linear = name == "kernel" and isinstance(layer, LINEAR)
        hook = as_kernel(layer) if linear else None
        return Port(key, found, name, tuple(own[name].shape), hook)

    def _layer(self, name: str, path: str) -> tuple[str, Layer]:
        found = layer_at(self.layers, path)
        if found is None:
            raise ValueError(f"{name}: `names` leads to no layer {path!r}")
        return found, self.layers[found]


def as_kernel(layer: Layer) -> Hook:
    """Brings a matrix (out, in) into a linear layer's kernel."""
    matrix = Matrix(layer)

    def hook(tensor: Any, shape: list[int]) -> Any:
        if tensor.shape != matrix.sizes[::-1]:
            raise ValueError(f"{tensor.shape}, expected {matrix.sizes[::-1]}")
        return matrix.kernel(tensor.T)

    return hook


def origin_of(layers: Layers, names: Mapping[str, Any] | None) -> Origin:
    """Finds out where a base's layers come from.

    Args:
        layers: The base's layers by path.
        names: Paths for modules, checked; what they say goes first.

    Raises:
        ValueError: No converter tells it, and there are no `names`.
    """
    backbone = find_backbone(layers.values())
    ports: list[Port] = []
    if backbone is not None:
        try:
            ports = ports_of(backbone, layers)
        except ValueError:
            if not names:
                raise
    elif not names:
        raise ValueError(
            "the model holds no KerasHub backbone, whose converter would say "
            "which layers come from which modules; give `names`, or a model "
            "in which the backbone itself is a layer"
        )
    by_key: dict[str, list[Port]] = {}
    for port in ports:
        by_key.setdefault(port.key, []).append(port)
    parts = {}
    for key, some in by_key.items():
        hosts = [layers[port.path] for port in some]
        if key.endswith(".weight") and all(map(is_kernel, some, hosts)):
            found = parts_of(some, hosts)
            if found is not None:
                parts[key.removesuffix(".weight")] = found
    return Origin(layers, parts, by_key, Named(names))


def is_kernel(port: Port, layer: Layer) -> bool:
    """Whether a weight is the kernel of a layer that can carry factors."""
    linear = port.name == "kernel" and isinstance(layer, LINEAR)
    return linear and lora_class(layer) is not None
