"""Layers of a served base, with stacks of adapters on them."""

from typing import Any

from keras_lora.bank.routing import (
    Switch,
    ids_in_force,
    is_read,
    stacks_in_force,
)
from keras_lora.methods import METHODS
from keras_lora.methods.host import AdapterHost
from keras_lora.methods.lora import lora_class
from keras_lora.methods.stack import Kind, Stack
from keras_lora.model import graphs, surgery
from keras_lora.model.classes import class_on
from keras_lora.model.surgery import Layer

KERNEL_READ = "_kernel_read"
"""Where a host notes that its kernel was read by others."""


class BankHost(AdapterHost):
    """A layer of the base with stacks of adapters on it."""

    @property
    def stacks(self) -> dict[str, Stack]:
        """The stacks in force, by the key of their kind."""
        found: dict[str, Stack] | None = stacks_in_force(self)
        return self.__dict__["_stacks"] if found is None else found

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

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's: symbolic calls hand on nothing beside a tensor."""
        plain = surgery.view(self, self._host_class)
        return plain.compute_output_spec(*args, **kwargs)

    def put_stack(self, stack: Stack) -> None:
        """Sets a new stack in the place of the one of its kind, if any."""
        old = self.stacks.get(stack.kind.key)
        self.stacks[stack.kind.key] = stack
        if old is not None:
            self.drop_stack(old)

    def drop_stack(self, stack: Stack) -> None:
        """Takes a stack's variables off the layer."""
        for variable in stack.variables.values():
            surgery.remove_weight(self, variable)

    def new_stack(self, kind: Kind, slots: int) -> Stack:
        """An empty stack whose variables the layer tracks."""
        stack = stack_class(kind.method)(kind, {})
        try:
            for name, shape in stack.shapes(self).items():
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

    def shown(self, kernel: Any) -> Any:
        """The base's kernel, which has no rows; that it was read is noted."""
        self.__dict__[KERNEL_READ] = True
        return kernel

    def _takes_a_kernel(self) -> bool:
        return False

    def adapted_product(self, x: Any, y: Any) -> Any:
        ids = self._ids(x)
        for stack in self._stacks_there(before_activation=True):
            y = stack.apply(self, x, y, ids)
        return y

    def _reverse_delta(self, x: Any) -> Any:
        ids = self._ids(x)
        stacks: list[Any] = self._stacks_there(before_activation=True)
        return sum(stack.apply_reverse(self, x, ids) for stack in stacks)

    def _stacks_there(self, before_activation: bool) -> list[Stack]:
        return [
            stack
            for stack in self.stacks.values()
            if stack.before_activation == before_activation and is_read(stack)
        ]

    def _ids(self, x: Any) -> Any:
        ids = ids_in_force()
        return self.__dict__["_switch"].ids(x) if ids is None else ids

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._served("call", args, kwargs)

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._served("quantized_call", args, kwargs)

    def _served(self, method: str, args: Any, kwargs: Any) -> Any:
        x = surgery.first_argument(self._host_class, args, kwargs)
        ids, mask = self._ids(x), graphs.mask_of(x)
        if ids is None or not self._stacks_there(before_activation=True):
            y = self.host_call(method, *args, **kwargs)
        else:
            y = getattr(super(), method)(*args, **kwargs)
        if ids is not None:
            graphs.put_mask(x, mask)  # attention takes it off its input
            for stack in self._stacks_there(before_activation=False):
                beside = graphs.side_of(y)
                y = stack.apply_in_call(self, y, ids, args, kwargs)
                if beside is not None and graphs.side_of(y) is None:
                    graphs.put_side(y, beside)
        return y


def was_read(host: Layer) -> bool:
    """Whether others read a host's kernel since it is one."""
    return KERNEL_READ in host.__dict__


def stack_class(method: str) -> type[Stack]:
    """How a bank serves a method."""
    found = METHODS[method].stack
    assert found is not None
    return found


def become_host(layer: Layer, switch: Switch) -> Any:
    """Makes a layer of the base a host with no stacks yet; returns it."""
    if isinstance(layer, BankHost):
        return layer
    lora: Any = lora_class(layer)
    mixins = (BankHost, lora) if lora else (BankHost,)
    host: Any = type(layer)
    served = class_on(host, *mixins)
    layer.__dict__["_stacks"] = {}
    layer.__dict__["_switch"] = switch
    surgery.add_seed(layer, switch)
    surgery.set_class(layer, served)
    return layer


def leave_bank(layer: Layer) -> None:
    """Makes a host the plain layer it was."""
    if not isinstance(layer, BankHost):
        return
    for variable in layer.adapter_weights.values():
        surgery.remove_weight(layer, variable)
    surgery.remove_seed(layer, layer.__dict__.pop("_switch"))
    surgery.set_class(layer, type(layer)._host_class)
    layer.__dict__.pop(KERNEL_READ, None)
    del layer.__dict__["_stacks"]
