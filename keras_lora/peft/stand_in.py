"""What a converter is handed in place of a model and of its tensors.

Nothing that it does reaches the model.
"""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_lora.model.paths import Layers, own_variables
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import LINEAR, kernel_shape

WRITING = ("assign", "build", "set_", "load_", "add_")
"""How methods begin that would change a layer."""


class Kept(np.ndarray):
    """An array that keeps its dtype whatever a converter casts it to."""

    @classmethod
    def of(cls, value: np.ndarray) -> "Kept":
        """A view of an array."""
        return value.view(cls)

    def astype(self, *args: Any, **kwargs: Any) -> "Kept":
        return self


class Unknown(np.ndarray):
    """Stands for a tensor whose values do not matter: maths on it is it."""

    @classmethod
    def make(cls, dtype: Any = "float32") -> "Unknown":
        """One such; it has as many axes as any that is unpacked."""
        return np.zeros((1, 1, 1, 1), dtype).view(cls)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> "Unknown":
        return Unknown.make(dtype)  # whole numbers are indices

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __iter__(self) -> Any:
        return iter((self, self))

    def __len__(self) -> int:
        return 2

    def _self(self, *args: Any, **kwargs: Any) -> Any:
        return self

    T = property(_self)
    reshape = transpose = squeeze = copy = swapaxes = _self


@dataclass(frozen=True, eq=False)
class Weight:
    """Stands for a variable, which it never changes."""

    path: str
    name: str
    shape: tuple[int, ...]
    variable: Any = field(repr=False)

    def assign(self, value: Any) -> None:
        """Does nothing: the base stays as it is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.variable, name)


class StandIn:
    """Stands for a layer, and gives stand-ins of all that leads to weights.

    It passes `isinstance` as what it stands for.
    """

    def __init__(self, layer: Layer, make: "Stage") -> None:
        self.__dict__.update(_layer=layer, _make=make)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__dict__["_layer"])

    def __getattr__(self, name: str) -> Any:
        layer, make = self.__dict__["_layer"], self.__dict__["_make"]
        if name == "kernel" and isinstance(layer, LINEAR):
            return make.kernel(layer)  # of a quantized layer too
        return make(getattr(layer, name))


class Stage:
    """Makes the stand-ins of one backbone."""

    def __init__(self, layers: Layers) -> None:
        self._made: dict[int, StandIn] = {}
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._weights = {
            id(variable): Weight(path, name, tuple(variable.shape), variable)
            for path, layer in layers.items()
            for name, variable in own_variables(layer).items()
        }

    def __call__(self, value: Any) -> Any:
        """What stands for a value: itself, unless it leads to variables."""
        if isinstance(value, keras.layers.Layer):
            return self._made.setdefault(id(value), StandIn(value, self))
        if isinstance(value, keras.Variable):
            unknown = Weight("", "", tuple(value.shape), value)
            return self._weights.get(id(value), unknown)
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return self._method(value) if callable(value) else value

    def kernel(self, layer: Layer) -> Weight:
        """What stands for the kernel of a linear layer."""
        path = self._paths.get(id(layer), "")
        shape = kernel_shape(layer)
        return Weight(path, "kernel" if path else "", shape, layer)

    def _method(self, method: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if getattr(method, "__name__", "").startswith(WRITING):
                return None
            named = {key: stood_for(value) for key, value in kwargs.items()}
            return self(method(*map(stood_for, args), **named))

        return run


def stood_for(value: Any) -> Any:
    """What a stand-in stands for; any other value as it is."""
    if type(value) is StandIn:
        return value.__dict__["_layer"]
    return value.variable if isinstance(value, Weight) else value
