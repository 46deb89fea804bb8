"""The bottleneck adapter: its math, its layer, and its places in a host."""

import math
from typing import Any, ClassVar

import keras
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods.bottleneck.config import AdapterConfig
from keras_lora.methods.host import AdapterHost, Setting, Specs
from keras_lora.model import graphs, surgery


class Bottleneck(AdapterHost):
    """Adds `up(activation(down(y)))` to a tensor `y`."""

    neutral_weights: ClassVar[tuple[str, ...]] = ("up_kernel", "up_bias")
    not_mergeable: ClassVar[str] = "a bottleneck cannot be folded into a kernel"
    adapter_settings: dict[str, Any]

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        width = settings["width"]
        width_in = settings.get("width_in", width)
        size = bottleneck_size(settings, width)
        specs: Specs = {
            "down_kernel": ((width_in, size), "glorot_uniform"),
            "down_bias": ((size,), "zeros"),
            "up_kernel": ((size, width), "zeros"),
            "up_bias": ((width,), "zeros"),
        }
        if settings["layer_norm"]:
            specs["norm_gamma"] = ((width_in,), "ones")
            specs["norm_beta"] = ((width_in,), "zeros")
        return specs

    def delta(self, y: Any) -> Any:
        """What the adapter adds to `y` (..., width), in float32."""
        y = ops.cast(y, "float32")
        w, settings = self.adapter_weights, self.adapter_settings
        return bottleneck_delta(y, w, settings, self.dropped)

    def add_delta(self, y: Any) -> Any:
        """`y` with the adapter's part, in the dtype of `y`."""
        return graphs.keep_mask(y, y + ops.cast(self.delta(y), y.dtype))


def bottleneck_delta(
    y: Any, w: Any, settings: dict[str, Any], dropped: Any = None
) -> Any:
    """`up(activation(down(y)))` with the weights `w`, by name.

    Each weight may have a batch axis in front, and a vector then one of size
    1 before its last; `y` is (batch, size, width) then.
    """
    if settings["layer_norm"]:
        y = layer_normalized(y) * w["norm_gamma"] + w["norm_beta"]
    if dropped is not None:
        y = dropped(y)
    h = ops.matmul(y, w["down_kernel"]) + w["down_bias"]
    h = keras.activations.get(settings["activation"])(h)
    return ops.matmul(h, w["up_kernel"]) + w["up_bias"]


def layer_normalized(y: Any) -> Any:
    """`y` with mean 0 and variance 1 over its last axis."""
    mean = ops.mean(y, axis=-1, keepdims=True)
    variance = ops.var(y, axis=-1, keepdims=True)
    return (y - mean) * ops.rsqrt(variance + 1e-5)


def bottleneck_size(settings: dict[str, Any], width: int) -> int:
    """The inner width for an output of `width`."""
    if settings["bottleneck"] is not None:
        return int(settings["bottleneck"])
    return max(1, math.floor(width / settings["reduction_factor"]))


def unknown_activation(settings: dict[str, Any]) -> list[str]:
    """Says whether Keras knows no activation of the name that fits.

    Some, such as `"glu"`, change the shape.
    """
    name = settings["activation"]
    try:
        y = keras.activations.get(name)(ops.ones((2, 4)))
        fits = tuple(y.shape) == (2, 4)
    except Exception:
        fits = False
    return [] if fits else [f"Keras has no activation named {name!r} that fits"]


class OutputBottleneck(Bottleneck):
    """A host of any kind with a bottleneck on its output."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_delta(super().call(*args, **kwargs), args, kwargs)  # type: ignore[misc]

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        y = super().quantized_call(*args, **kwargs)  # type: ignore[misc]
        return self._with_delta(y, args, kwargs)

    def _with_delta(self, y: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(y, tuple | list):
            return type(y)([self._with_delta(y[0], args, kwargs), *y[1:]])
        return self.adapted_output(y, args, kwargs)

    def adapted_output(self, y: Any, args: Any, kwargs: Any) -> Any:
        """The host's (first) output `y` of a call, updated."""
        return self.add_delta(y)


class ParallelBottleneck(OutputBottleneck):
    """A host of any kind whose output gets `up(activation(down(x))) * scale`.

    `x` is the host's first input.
    """

    def adapted_output(self, y: Any, args: Any, kwargs: Any) -> Any:
        x = surgery.first_argument(self._host_class, args, kwargs)
        delta = self.delta(x) * self.adapter_settings["scale"]
        return graphs.keep_mask(y, y + ops.cast(delta, y.dtype))


@keras.saving.register_keras_serializable(package="keras_lora")
class Adapter(Bottleneck, keras.layers.Layer):
    """A residual bottleneck: `x + up(activation(down(x)))`.

    `up` starts at zero, so that a new adapter returns its input.

    Args:
        bottleneck: Int above 0, the inner width; None for the input's width
            divided by `reduction_factor`.
        reduction_factor: Number above 0; not used where `bottleneck` is given.
        activation: Name of a Keras activation.
        dropout: Share of `down`'s input dropped in training, in [0, 1).
        layer_norm: Whether `down`'s input is layer-normalized first.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: A setting is out of its range; all of them are listed.

    Input shape:
        Tensor (..., width), floating point.

    Output shape:
        As the input's. The weights are float32 under every dtype policy.

    Example:

    ```python
    layer = keras_lora.Adapter(bottleneck=8)
    y = layer(np.ones((2, 5, 64), "float32"))  # (2, 5, 64)
    ```

    References:
        - [Parameter-Efficient Transfer Learning for NLP](
          https://arxiv.org/abs/1902.00751)
    """

    _host_class = keras.layers.Layer

    bottleneck = Setting()
    reduction_factor = Setting()
    activation = Setting()
    dropout = Setting()
    layer_norm = Setting()

    def __init__(
        self,
        bottleneck: int | None = None,
        reduction_factor: float = 16,
        activation: str = "relu",
        dropout: float = 0.0,
        layer_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        config = AdapterConfig(
            bottleneck,
            reduction_factor,
            activation,
            dropout=dropout,
            layer_norm=layer_norm,
        )
        settings = config.settings_for("")
        raise_if("Adapter was not made", unknown_activation(settings))
        self.__dict__["adapter_settings"] = settings
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.__dict__["adapter_settings"]["width"] = input_shape[-1]
        self.attach(self.__dict__["adapter_settings"])

    def call(self, inputs: Any) -> Any:
        return self.add_delta(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        settings = dict(self.__dict__["adapter_settings"])
        for name in ("method", "width"):
            settings.pop(name, None)
        return {**super().get_config(), **settings}
