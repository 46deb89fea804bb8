"""Folding an adapter into the kernels: a plain Keras model remains."""

from typing import Any

import numpy as np
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.model import surgery
from keras_lora.model.compiled import forget_compiled
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.member import detach_layer


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
    found = Adapted(model)
    problems = found.problems + found.switched_off
    for item in found.hosts.items():
        problems += refusals(*item)
    raise_if("merge: nothing was changed", problems)
    for host in found.hosts.values():
        surgery.kernel_of(host).assign(merged_kernel(host))
    layers = found.all_layers
    for layer in layers:
        detach_layer(layer)
    forget_compiled(layers)
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
