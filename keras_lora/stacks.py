"""Adapter weights of many tasks stacked in slots, and the layers they sit on.

Slot 0 is the base: it stays zero. A slot that is zero adds exactly nothing.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_lora import surgery
from keras_lora.bottleneck import bottleneck_delta, bottleneck_size
from keras_lora.host import AdapterHost
from keras_lora.layers import lora_class
from keras_lora.routing import Switch, ids_in_force
from keras_lora.surgery import Layer

Arrays = dict[str, np.ndarray]
LORA = "lora"


@dataclass(frozen=True)
class Kind:
    """What adapters must share to be stacked on one layer.

    Attributes:
        method: `"lora"` or `"bottleneck"`.
        size: Rank or inner width; smaller adapters are padded with zeros.
        width: Width of the host's output; 0 for LoRA, which knows its own.
        activation: Of a bottleneck.
        layer_norm: Of a bottleneck.
    """

    method: str
    size: int
    width: int = 0
    activation: str = ""
    layer_norm: bool = False

    @property
    def key(self) -> str:
        """Kinds with one key differ in size only: the largest serves all."""
        if self.method == LORA:
            return LORA
        return f"{self.method}:{self.activation}:{int(self.layer_norm)}"


def kind_of(settings: dict[str, Any]) -> Kind:
    """The kind of stack that an adapter with these settings needs."""
    if settings["method"] == LORA:
        return Kind(LORA, settings["rank"])
    return Kind(
        "bottleneck",
        bottleneck_size(settings, settings["width"]),
        settings["width"],
        settings["activation"],
        settings["layer_norm"],
    )


def slot_values(
    settings: dict[str, Any], weights: Arrays, kind: Kind
) -> Arrays:
    """An adapter's weights for one layer as they go into a slot, padded."""
    if settings["method"] == LORA:
        scale = settings["alpha"] / settings["rank"]
        pad = kind.size - settings["rank"]
        return {
            "lora_a": np.pad(weights["lora_a"], ((0, 0), (0, pad))),
            "lora_b": np.pad(weights["lora_b"] * scale, ((0, pad), (0, 0))),
        }
    pad = kind.size - weights["down_bias"].shape[0]
    values = {
        "down_kernel": np.pad(weights["down_kernel"], ((0, 0), (0, pad))),
        "down_bias": np.pad(weights["down_bias"], (0, pad))[None],
        "up_kernel": np.pad(weights["up_kernel"], ((0, pad), (0, 0))),
        "up_bias": weights["up_bias"][None],
    }
    if kind.layer_norm:
        values["norm_gamma"] = weights["norm_gamma"][None]
        values["norm_beta"] = weights["norm_beta"][None]
    return values


@dataclass
class Stack:
    """The stacked weights of one kind on one layer."""

    kind: Kind
    variables: dict[str, Any]
    used: set[int] = field(default_factory=set)

    def write(self, slot: int, values: Arrays | None) -> None:
        """Fills one slot, or empties it; what is empty is left alone."""
        if values is None and slot not in self.used:
            return
        self.used.add(slot)
        for name, variable in self.variables.items():
            value = (
                np.zeros(variable.shape[1:], "float32")
                if values is None
                else values[name]
            )
            start = (slot,) + (0,) * value.ndim
            variable.assign(
                ops.slice_update(
                    ops.convert_to_tensor(variable),
                    start,
                    ops.convert_to_tensor(value[None], "float32"),
                )
            )
        if values is None:
            self.used.discard(slot)

    def gathered(self, ids: Any) -> dict[str, Any]:
        """The weights of each row, or of the one slot in force."""
        return {
            name: ops.take(variable, ids, axis=0)
            for name, variable in self.variables.items()
        }


class BankHost(AdapterHost):
    """A layer of the base with stacks of adapters on it."""

    @property
    def stacks(self) -> dict[str, Stack]:
        """The layer's stacks by the key of their kind."""
        found: dict[str, Stack] = self.__dict__["_stacks"]
        return found

    @property
    def adapter_weights(self) -> dict[str, Any]:
        """All stacked variables."""
        return {
            f"{key}/{name}": variable
            for key, stack in self.__dict__.get("_stacks", {}).items()
            for name, variable in stack.variables.items()
        }

    @property
    def trainable(self) -> bool:
        """The layer's own flag; stacks never train."""
        return surgery.trainable_flag(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._host_class.trainable.fset(self, value)  # type: ignore[attr-defined]

    def get_config(self) -> dict[str, Any]:
        return dict(self._plain().get_config())

    def save_own_variables(self, store: Any) -> None:
        self._plain().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        self._plain().load_own_variables(store)

    def put_stack(self, stack: "Stack") -> None:
        """Sets a new stack in the place of the one of its kind, if any."""
        old = self.stacks.get(stack.kind.key)
        self.stacks[stack.kind.key] = stack
        if old is not None:
            self.drop_stack(old)

    def drop_stack(self, stack: "Stack") -> None:
        """Takes a stack's variables off the layer."""
        for variable in stack.variables.values():
            surgery.remove_weight(self, variable)

    def new_stack(self, kind: Kind, slots: int) -> Stack:
        """An empty stack whose variables the layer tracks."""
        stack = Stack(kind, {})
        try:
            for name, shape in slot_shapes(self, kind).items():
                stack.variables[name] = surgery.add_weight(
                    self,
                    name=name,
                    shape=(slots, *shape),
                    initializer="zeros",
                    trainable=False,
                )
        except BaseException:
            self.drop_stack(stack)
            raise
        return stack

    def delta(self, x: Any) -> Any:
        stack = self.stacks[LORA].variables
        return self.rows_delta(  # type: ignore[attr-defined]
            x, stack["lora_a"], stack["lora_b"], self._ids()
        )

    def _reverse_delta(self, x: Any) -> Any:
        stack = self.stacks[LORA].variables
        return self.rows_reverse_delta(  # type: ignore[attr-defined]
            x, stack["lora_a"], stack["lora_b"], self._ids()
        )

    def _ids(self) -> Any:
        ids = ids_in_force()
        if ids is None:
            switch: Switch = self.__dict__["_switch"]
            ids = ops.convert_to_tensor(switch.state)
        return ids

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._served("call", args, kwargs)

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._served("quantized_call", args, kwargs)

    def _served(self, method: str, args: Any, kwargs: Any) -> Any:
        if LORA in self.stacks:
            y = getattr(super(), method)(*args, **kwargs)
        else:
            y = self.host_call(method, *args, **kwargs)
        for key, stack in self.stacks.items():
            if key != LORA:
                y = self._with_bottleneck(y, stack)
        return y

    def _with_bottleneck(self, y: Any, stack: Stack) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self._with_bottleneck(y[0], stack), *y[1:]])
        ids = self._ids()
        settings = {
            "activation": stack.kind.activation,
            "layer_norm": stack.kind.layer_norm,
        }
        flat = ops.cast(y, "float32")
        if len(ids.shape):
            shape = (ops.shape(ids)[0], -1, stack.kind.width)
            flat = ops.reshape(flat, shape)
        delta = bottleneck_delta(flat, stack.gathered(ids), settings)
        delta = ops.cast(ops.reshape(delta, ops.shape(y)), y.dtype)
        return surgery.keep_mask(y, y + delta)


def slot_shapes(host: Any, kind: Kind) -> dict[str, tuple[int, ...]]:
    """The shape of one slot of each stacked weight."""
    if kind.method == LORA:
        size_in, size_out = host._sizes()
        return {
            "lora_a": (size_in, kind.size),
            "lora_b": (kind.size, size_out),
        }
    shapes: dict[str, tuple[int, ...]] = {
        "down_kernel": (kind.width, kind.size),
        "down_bias": (1, kind.size),
        "up_kernel": (kind.size, kind.width),
        "up_bias": (1, kind.width),
    }
    if kind.layer_norm:
        shapes["norm_gamma"] = shapes["norm_beta"] = (1, kind.width)
    return shapes


_CLASSES: dict[type, Any] = {}


def become_host(layer: Layer, switch: Switch) -> Any:
    """Makes a layer of the base a host with no stacks yet; returns it."""
    if isinstance(layer, BankHost):
        return layer
    host = type(layer)
    lora = lora_class(layer)
    if host not in _CLASSES:
        bases = (BankHost, lora, host) if lora else (BankHost, host)
        names = ("__module__", "__qualname__", "__doc__")
        body = {name: getattr(host, name) for name in names}
        body["_host_class"] = host
        _CLASSES[host] = type(host.__name__, bases, body)
    layer.__dict__["_stacks"] = {}
    layer.__dict__["_switch"] = switch
    surgery.add_seed(layer, switch)
    surgery.set_class(layer, _CLASSES[host])
    return layer


def leave_bank(layer: Layer) -> None:
    """Makes a host the plain layer it was."""
    if not isinstance(layer, BankHost):
        return
    for variable in layer.adapter_weights.values():
        surgery.remove_weight(layer, variable)
    surgery.remove_seed(layer, layer.__dict__.pop("_switch"))
    surgery.set_class(layer, type(layer)._host_class)
    del layer.__dict__["_stacks"]


def host_bytes(layer: Layer) -> int:
    """Bytes that a host's stacks take."""
    return sum(
        int(np.prod(variable.shape)) * 4
        for variable in layer.adapter_weights.values()
    )
