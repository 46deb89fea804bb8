"""A bottleneck beside a layer: it reads what the layer reads."""

from typing import Any

from keras import ops

from keras_lora.methods.bottleneck.layer import Wrapped
from keras_lora.methods.host import Specs
from keras_lora.model import surgery
from keras_lora.model.surgery import Layer
from keras_lora.model.widths import input_width, output_width


class Beside(Wrapped):
    """A host of any kind whose output gets `up(activation(down(x))) * scale`.

    `x` is the host's first input.
    """

    def weight_specs(self, settings: dict[str, Any]) -> Specs:
        specs = super().weight_specs(settings)
        width = settings["width_in"]
        (_, size), initializer = specs["down_kernel"]
        specs["down_kernel"] = ((width, size), initializer)
        for name in {"norm_gamma", "norm_beta"} & set(specs):
            specs[name] = ((width,), specs[name][1])
        return specs

    def adapted_output(self, y: Any, args: Any, kwargs: Any) -> Any:
        x = surgery.first_argument(self._host_class, args, kwargs)
        delta = self.delta(x) * self.adapter_settings["scale"]
        return surgery.keep_mask(y, y + ops.cast(delta, y.dtype))


def both_widths(layer: Layer) -> dict[str, int | str]:
    """The widths of a layer's first input and output, or why one has none."""
    return {"width": output_width(layer), "width_in": input_width(layer)}
