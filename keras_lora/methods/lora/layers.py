"""Which LoRA layer stands in for which Keras layer."""

from typing import Any

import keras

from keras_lora.methods.lora.conv import LoRAConv1D, LoRAConv2D, LoRAConv3D
from keras_lora.methods.lora.dense import LoRADense, LoRAEinsumDense
from keras_lora.methods.lora.embedding import (
    LoRAEmbedding,
    LoRAReversibleEmbedding,
)
from keras_lora.model.classes import plain_class

LORA_LAYERS: tuple[Any, ...] = (
    LoRADense,
    LoRAEinsumDense,
    LoRAEmbedding,
    LoRAConv1D,
    LoRAConv2D,
    LoRAConv3D,
)


def lora_class(layer: keras.layers.Layer) -> type | None:
    """The LoRA layer that can stand in for `layer`, or None.

    A subclass with a `call` or a `kernel` of its own is left alone: what it
    multiplies by is not known.
    """
    host: Any = plain_class(layer)
    table = issubclass(host, keras.layers.Embedding)
    if table and hasattr(layer, "tie_weights"):
        return LoRAReversibleEmbedding
    for cls in LORA_LAYERS:
        base = cls._host_class
        if issubclass(host, base) and all(
            getattr(host, name, None) is getattr(base, name, None)
            for name in ("call", "kernel", "embeddings")
        ):
            return cls
    return None
