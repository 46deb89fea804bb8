"""A layer that owns adapter weights beside frozen weights of its own."""

from typing import Any, ClassVar

import keras

from keras_lora.errors import raise_if
from keras_lora.model import surgery

Specs = dict[str, tuple[tuple[int, ...], Any]]


def learns_fast(variable: Any) -> bool:
    """Whether a host declared that LoRA+ trains a variable at a higher rate."""
    return bool(getattr(variable, "learns_fast", False))


class Setting:
    """A layer's argument, read off its adapter's settings.

    An attribute of that name that the layer has itself goes before it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        try:
            return layer.adapter_settings[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


class AdapterHost:
    """Mixin for a Keras layer whose own weights never train.

    What trains are the `adapter_weights`, if it has any. They are float32
    under every dtype policy, come last in `weights` and are stored under
    their own names in Keras's weight files.
    """

    name: str
    built: bool
    _host_class: ClassVar[type]
    neutral_weights: ClassVar[tuple[str, ...]] = ()
    """Names of the weights that switch the adapter off when they are zero."""
    fast_weights: ClassVar[tuple[str, ...]] = ()
    """Names of the weights that LoRA+ trains at a higher rate."""
    fixed_weights: ClassVar[tuple[str, ...]] = ()
    """Names of the weights that are kept as they start."""
    read_whole: ClassVar[tuple[str, ...]] = ()
    """Names of the weights whose slots a bank does not read one by one."""
    not_mergeable: ClassVar[str] = ""
    """Why no kernel can take the adapter up; empty where one can."""

    @property
    def adapter_weights(self) -> dict[str, Any]:
        """The adapter's variables by name."""
        found: dict[str, Any] = self.__dict__.get("_adapter_weights", {})
        return found

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        """Shape and initializer of each adapter weight, by name."""
        return {}

    def attach(self, settings: dict[str, Any]) -> None:
        """Adds the adapter's weights to the built layer."""
        weights: dict[str, Any] = {}
        try:
            for name, (shape, start) in self.weight_specs(settings).items():
                weights[name] = surgery.add_weight(
                    self,
                    name=name,
                    shape=shape,
                    initializer=start,
                    trainable=name not in self.fixed_weights,
                )
        except BaseException:  # such as no memory for the second one
            for variable in weights.values():
                surgery.remove_weight(self, variable)
            raise
        for name in self.fast_weights:
            weights[name].learns_fast = True
        self.__dict__["_adapter_weights"] = weights
        self.__dict__["adapter_settings"] = settings
        if settings.get("dropout"):
            # The policy in force when an adapter is attached is not asked.
            dropout = keras.layers.Dropout(settings["dropout"], dtype="float32")
            self.__dict__["_adapter_dropout"] = dropout
            surgery.add_seed(self, dropout.seed_generator)

    def detach(self) -> None:
        """Takes the adapter's weights off the layer."""
        for variable in self.adapter_weights.values():
            surgery.remove_weight(self, variable)
        dropout = self.__dict__.pop("_adapter_dropout", None)
        if dropout is not None:
            surgery.remove_seed(self, dropout.seed_generator)
        self.__dict__.pop("_adapter_weights", None)
        self.__dict__.pop("adapter_settings", None)

    def stored(
        self, settings: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and weights as an adapter file has them."""
        return settings, values

    def freeze(self) -> None:
        """Stops the layer's own weights from training."""
        adapter = {id(v) for v in self.adapter_weights.values()}
        for variable in surgery.tracked_variables(self):
            if id(variable) not in adapter:
                variable.trainable = False

    def dropped(self, x: Any) -> Any:
        """The adapter's input, with dropout while the model trains."""
        dropout = self.__dict__.get("_adapter_dropout")
        return x if dropout is None else dropout(x)

    def host_call(
        self, method: str, /, *args: Any, overrides: Any = None, **kwargs: Any
    ) -> Any:
        """Runs the host's `call` or `quantized_call` as without an adapter.

        It sees `overrides` in place of the layer's own attributes.
        """
        twin = surgery.view(self, self._host_class, **(overrides or {}))
        return getattr(twin, method)(*args, **kwargs)

    @property
    def trainable(self) -> bool:
        """Whether anything of this layer may train, once it is built.

        False for `BatchNormalization`, which then keeps its statistics.
        """
        keeps = isinstance(self, keras.layers.BatchNormalization)
        below = self.adapter_weights or surgery.children(self)
        free = not self.built or (bool(below) and not keeps)
        return surgery.trainable_flag(self) and free

    @trainable.setter
    def trainable(self, value: bool) -> None:
        surgery.set_trainable_flag(self, bool(value))
        for name, variable in self.adapter_weights.items():
            variable.trainable = bool(value) and name not in self.fixed_weights
        for layer in surgery.children(self):
            layer.trainable = value

    def save_own_variables(self, store: Any) -> None:
        """Stores the host's variables as the host does, then the adapter's."""
        if not self.adapter_weights:
            super().save_own_variables(store)  # type: ignore[misc]
            return
        self._plain().save_own_variables(store)
        for name, variable in self.adapter_weights.items():
            store[name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Loads a file of the adapted layer, or one of the bare host."""
        if not self.adapter_weights:
            super().load_own_variables(store)  # type: ignore[misc]
            return
        own = {name: store[name] for name in list(store.keys())}
        values = {k: own.pop(k) for k in self.adapter_weights if k in own}
        if values:
            raise_if(
                f"Layer {self.name!r} was not loaded",
                [
                    f"the file has no {name!r}"
                    for name in self.adapter_weights
                    if name not in values
                ],
            )
        self._plain().load_own_variables(own)
        for name, value in values.items():
            self.adapter_weights[name].assign(value)

    def _plain(self) -> Any:
        hidden = surgery.without(self, self.adapter_weights.values())
        return surgery.view(self, self._host_class, **hidden)
