"""Folding an adapter into the kernels: a plain Keras model remains."""

from typing import Any

import numpy as np
from keras import ops

from keras_lora.errors import refuse
from keras_lora.model import surgery
from keras_lora.rewrite.checks import incomplete, switched_off
from keras_lora.rewrite.member import everyone, hosts, leave_base, members


def merge(model: Any) -> Any:
    """Adds each update to its kernel and takes the adapter off, in place.

    What remains is a plain Keras model that needs no keras_lora to load.
    Layers that trained by `train=` keep their values. Compiled models that
    hold the layers ask for `compile` again.

    Args:
        model: The adapted model, or one it is nested in.

    Returns:
        The same model.

    Raises:
        ValueError: The model holds no adapter, several, a part of one or one
            that is switched off; a bottleneck or factors (which no kernel can
            take up) or a quantized layer; a merged kernel would not be finite.
            Everything wrong is listed, and the model is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    keras_lora.merge(base).save("merged.keras")
    ```

    References:
        - [LoRA: Low-Rank Adaptation of Large Language Models](
          https://arxiv.org/abs/2106.09685)
    """
    found = members(model)
    problems = incomplete(model, found) + switched_off(found)
    for item in hosts(model).items():
        problems += refusals(*item)
    refuse("merge: nothing was changed", problems)
    for host in hosts(model).values():
        surgery.kernel_of(host).assign(merged_kernel(host))
    layers = everyone(found)
    for layer in layers:
        leave_base(layer)
    surgery.forget_compiled(layers)
    return model


def refusals(path: str, host: Any) -> list[str]:
    """Says what keeps one host from being merged."""
    if host.not_mergeable:
        return [f"{path}: {host.not_mergeable}"]
    if host.quantization_mode is not None:
        return [f"{path}: quantized ({host.quantization_mode})"]
    kernel = surgery.kernel_of(host)
    merged = ops.cast(merged_kernel(host), kernel.dtype)
    if not np.all(ops.convert_to_numpy(ops.isfinite(merged))):
        return [f"{path}: the merged kernel is not finite in {kernel.dtype}"]
    return []


def merged_kernel(host: Any) -> Any:
    """A host's kernel with its update, at least in float32."""
    kernel = surgery.kernel_of(host)
    dtype = "float64" if kernel.dtype == "float64" else "float32"
    return ops.cast(kernel, dtype) + ops.cast(host.delta_kernel(), dtype)
