"""IA3: each column of a linear layer's output learns a factor."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods.host import Specs
from keras_lora.methods.lora.dense import LinearLoRA
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.method import Method, Plan
from keras_lora.methods.stack import Arrays, Kind, Settings, Shapes, Stack
from keras_lora.model.classes import class_on
from keras_lora.model.surgery import Layer
from keras_lora.settings import wrong_layers, wrong_targets
from keras_lora.targets import Blocks, Targets, in_blocks, linear_targets

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
        raise_if("IA3Config", problems)

    def plan(
        self, method: Method, layers: dict[str, Layer], trained: set[str]
    ) -> Plan:
        """Factors on the outputs of linear layers."""
        targets, problems = linear_targets(
            layers,
            KEYS_VALUES_AND_WIDE if self.targets is None else self.targets,
            trained,
            method.layer,
        )
        targets, outside = in_blocks(layers, targets, self.layers)
        settings = {path: {"method": self.method} for path in targets}
        return Plan(settings, problems + outside)


class IA3Linear(LinearLoRA):
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

    def delta_kernel(self) -> Any:
        """What the factors come to where others multiply by the kernel."""
        return self._as_kernel(self.kernel_matrix() * self.gain)

    def _takes_a_kernel(self) -> bool:
        return False


def ia3_class(layer: Layer) -> Any:
    """The class that makes a layer a host of factors, or None."""
    plain: Any = lora_class(layer)
    linear = plain is not None and issubclass(plain, LinearLoRA)
    return class_on(plain, IA3Linear) if linear else None


class IA3Stack(Stack):
    """Factors of a layer's output; a kind of no size fits all of them."""

    unit = ""
    before_activation = False
    reads: ClassVar[tuple[str, ...]] = ("outputs", "kernel")

    @staticmethod
    def kind_of(settings: Settings) -> Kind:
        return Kind(settings["method"], 0)

    def shapes(self, host: Any) -> Shapes:
        return {"gain": (host._sizes()[1],)}

    def values(self, host: Any, settings: Settings, weights: Arrays) -> Arrays:
        return weights

    def apply(self, host: Any, x: Any, y: Any, ids: Any) -> Any:
        gain = self.variables["gain"]
        more = host.rows_scaled(ops.cast(y, "float32"), gain, ids)
        return y + ops.cast(more, y.dtype)


IA3 = Method(
    "ia3",
    IA3Config,
    ia3_class,
    lambda settings, weights: f"{weights['gain'].shape[0]} factors",
    check=lambda settings: [],
    stack=IA3Stack,
)
