"""LoRA+: a higher learning rate for `B`, within any Keras optimizer."""

from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.methods.host import learns_fast
from keras_lora.model.classes import class_on, registered
from keras_lora.model.surgery import SteppedBySpeed
from keras_lora.settings import positive_number


class LoRAPlus(SteppedBySpeed):
    """Mixin for an optimizer that takes larger steps on every `B`."""

    ratio: float
    _host_class: Any

    def build(self, variables: Any) -> None:
        raise_if(
            "The optimizer was not built",
            []
            if any(learns_fast(v) for v in variables)
            else ["lora_plus: none of the model's variables is a LoRA's `B`"],
        )
        super().build(variables)  # type: ignore[misc]

    def speed(self, variable: Any) -> float:
        return self.ratio if learns_fast(variable) else 1.0

    def get_config(self) -> dict[str, Any]:
        plain = self._host_class.from_config(super().get_config())  # type: ignore[misc]
        serialized = keras.saving.serialize_keras_object(plain)
        return {"optimizer": serialized, "ratio": self.ratio}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        """Builds the optimizer from what `get_config` gave."""
        optimizer = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        return lora_plus(optimizer, config["ratio"])

    @classmethod
    def of(cls, optimizer: Any, ratio: float) -> Any:
        """A new optimizer like a given one, with larger steps on `B`."""
        made = super().from_config(optimizer.get_config())  # type: ignore[misc]
        made.ratio = float(ratio)
        return made


def lora_plus(optimizer: Any, ratio: float = 16.0) -> Any:
    """Gives an optimizer that trains each LoRA's `B` at a higher rate.

    Everything else about it is the given optimizer's: its class, schedule,
    clipping and weight decay. It saves and loads with a compiled model.

    Args:
        optimizer: A Keras optimizer that is not built yet, or its name.
        ratio: Number above 0, the learning rate of `B` over that of all other
            weights. With a high one the best rate for the others is lower
            than without.

    Returns:
        A `keras.optimizers.Optimizer` for `compile`.

    Raises:
        ValueError: The optimizer is built already, wraps another one, or is
            Nadam; the ratio is out of its range. When training starts: the
            model has no LoRA weights that train.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    adam = keras.optimizers.Adam(1e-3)
    base.compile(keras_lora.lora_plus(adam, ratio=8), "mse")
    base.fit(np.ones((4, 8)), np.ones((4, 4)), verbose=0)
    ```

    References:
        - [LoRA+: Efficient Low Rank Adaptation of Large Models](
          https://arxiv.org/abs/2402.12354)
    """
    problems = positive_number("ratio", ratio)
    optimizer = keras.optimizers.get(optimizer)
    plain: Any = type(optimizer)
    if optimizer.built:
        problems.append("the optimizer is built already")
    if issubclass(plain, LoRAPlus) or hasattr(optimizer, "inner_optimizer"):
        problems.append(f"a {plain.__name__} wraps another optimizer")
    if isinstance(optimizer, keras.optimizers.Nadam):
        problems.append("Nadam cannot step some variables apart from others")
    raise_if("lora_plus gave no optimizer", problems)
    made = registered(class_on(plain, LoRAPlus), "LoRAPlus", LoRAPlus)
    return made.of(optimizer, ratio)


registered(LoRAPlus, "LoRAPlus", LoRAPlus)
