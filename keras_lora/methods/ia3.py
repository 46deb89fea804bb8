"""IA3: each column of a linear layer's output learns a factor."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from keras_lora.errors import refuse
from keras_lora.methods.dora import matching_class
from keras_lora.methods.host import Specs
from keras_lora.methods.lora.config import Blocks, Targets
from keras_lora.methods.lora.dense import LoRADense, LoRAEinsumDense, Multiplied
from keras_lora.model.surgery import Layer
from keras_lora.settings import wrong_layers, wrong_targets

KEYS_VALUES_AND_WIDE = (
    r"(?:.*/)?(?:key|value|feedforward_intermediate_dense|ffw_gating(?:_\d+)?)"
)
"""What Keras and KerasHub call the layers that the paper rescales."""


@dataclass(frozen=True)
class IA3Config:
    """A learned factor for each column of the outputs of chosen layers.

    Each target's output `y`, after its activation, becomes `y * (1 + gain)`,
    where `gain` starts at zero. It is the smallest of the methods: as many
    weights as the output is wide.

    Args:
        targets: Which `Dense` and `EinsumDense` layers, as in `LoRAConfig`.
            None: keys, values and the first feed-forward layer, as Keras's
            attention and KerasHub's blocks call them.
        layers: Which blocks, as in `LoRAConfig`.

    Raises:
        ValueError: A setting is not valid; all of them are listed.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.IA3Config(targets="all-linear"))
    ```

    References:
        - [Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
          In-Context Learning](https://arxiv.org/abs/2205.05638)
    """

    targets: Targets | None = None
    layers: Blocks | None = None

    method = "ia3"

    def __post_init__(self) -> None:
        problems = wrong_layers(self.layers)
        if self.targets is not None:
            problems += wrong_targets(self.targets)
        refuse("IA3Config", problems)

    def settings_for(self, path: str) -> dict[str, Any]:
        """What the layer at `path` gets, as it stands in a file."""
        return {"method": self.method}


class Rescaled(Multiplied):
    """A host whose columns learn factors; it has no `A` and no `B`."""

    neutral_weights: ClassVar[tuple[str, ...]] = ("gain",)
    fast_weights: ClassVar[tuple[str, ...]] = ()
    not_mergeable: ClassVar[str] = "factors scale the bias and activation too"

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        return {"gain": ((self._sizes()[1],), "zeros")}

    @property
    def gain(self) -> Any:
        """Variable (out,), float32; starts at zero."""
        return self.adapter_weights["gain"]

    def _adapted(self, method: str, x: Any) -> Any:
        y = self.host_call(method, x)
        more = self.scaled(ops.cast(y, "float32"), self.gain)
        return y + ops.cast(more, y.dtype)

    def _has_one_product(self, x: Any) -> bool:
        return False


class RescaledDense(Rescaled, LoRADense):
    """A `Dense` host."""


class RescaledEinsumDense(Rescaled, LoRAEinsumDense):
    """An `EinsumDense` host."""


def rescaled_class(layer: Layer) -> type | None:
    """The class that makes a layer a host of factors, or None."""
    return matching_class(layer, RescaledDense, RescaledEinsumDense)
