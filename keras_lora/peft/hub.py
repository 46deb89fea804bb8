"""KerasHub's converters, run without a checkpoint; no other file knows them.

A converter moves the tensors of a Hugging Face checkpoint into a backbone. It
is handed stand-ins for both, and what it does tells which tensor goes where.
Nothing of the backbone is written to.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lora.errors import shorten
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer
from keras_lora.peft.stand_in import Kept, Stage, Unknown, Weight

CONVERTERS = "keras_hub.src.utils.transformers"
MODELS = "keras_hub.src.models."
CALLED_HERE = {
    "n_embd": "hidden_dim",
    "emb_layer_norm_before": "use_pre_layer_norm",
}
"""Settings that converters read of a config, by their names in KerasHub."""
TORCH_NAMES = {"gamma": "weight", "beta": "bias"}
"""What torch calls the weights of norms that old checkpoints call so."""
Hook = Callable[[Any, list[int]], Any]


@dataclass(frozen=True)
class Port:
    """One weight of a Keras layer, and the tensor that it is read from.

    Attributes:
        key: The tensor's key in a checkpoint.
        path: The layer's path in the base.
        name: The weight's name in the layer.
        shape: The weight's shape.
        hook: Brings the tensor into this shape; None where it has it.
    """

    key: str
    path: str
    name: str
    shape: tuple[int, ...]
    hook: Hook | None

    def through(self, tensor: Any) -> np.ndarray:
        """The weight that a tensor becomes, in the tensor's own precision."""
        if self.hook is not None:
            tensor = self.hook(Kept.of(tensor), list(self.shape))
        value = np.asarray(tensor)
        if value.shape != self.shape:
            raise ValueError(f"shape {value.shape}, expected {self.shape}")
        return value


class Recorder:
    """What a converter is given in place of a checkpoint."""

    preset = prefix = ""
    safetensor_config = None

    def __init__(self) -> None:
        self.ports: list[Port] = []

    def get_tensor(self, hf_weight_key: str) -> Any:
        """A tensor, as far as a converter can tell."""
        return Unknown.make()

    def get_prefixed_key(self, hf_weight_key: str, dict_like: Any) -> str:
        """The key: a checkpoint without a prefix."""
        return hf_weight_key

    def port_weight(
        self,
        keras_variable: Any,
        hf_weight_key: str,
        hook_fn: Hook | None = None,
    ) -> None:
        """Notes which weight a tensor goes to."""
        to = keras_variable
        if isinstance(to, Weight) and to.name:
            module, _, name = hf_weight_key.rpartition(".")
            key = f"{module}.{TORCH_NAMES.get(name, name)}"
            port = Port(key, to.path, to.name, to.shape, hook_fn)
            self.ports.append(port)


class Config(dict[str, Any]):
    """A checkpoint's config, as far as the backbone itself can tell it."""

    def __init__(self, backbone: Layer, kind: str) -> None:
        if kind == "gemma" and getattr(backbone, "use_post_ffw_norm", False):
            kind = "gemma2"
        elif getattr(backbone, "vision_encoder", backbone) is None:
            kind = f"{kind}_text"
        super().__init__(model_type=kind)
        self._backbone = backbone

    def __missing__(self, key: str) -> Any:
        try:
            return getattr(self._backbone, CALLED_HERE.get(key, key))
        except AttributeError:
            raise KeyError(key) from None

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


def is_backbone(layer: Layer) -> bool:
    """Whether a layer is a KerasHub backbone."""
    hub = sys.modules.get("keras_hub")  # without it there are none
    return hub is not None and isinstance(layer, hub.models.Backbone)


def find_backbone(layers: Iterable[Layer]) -> Layer | None:
    """The first backbone among layers, of which outer ones come first."""
    return next(filter(is_backbone, layers), None)


def converter_of(backbone: Layer) -> Any:
    """KerasHub's converter for a backbone.

    Its own class's, or that of a subclass which loads the same layers:
    Llama 3's for Llama. An adapted backbone is of a class made here.
    """
    package = importlib.import_module(CONVERTERS)
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    converters = {
        name: importlib.import_module(f"{CONVERTERS}.{name}")
        for name in names
        if name.startswith("convert_")
    }
    made_for = {
        converter: converter.backbone_cls
        for converter in converters.values()
        if isinstance(getattr(converter, "backbone_cls", None), type)
    }
    classes = [
        cls
        for cls in type(backbone).__mro__
        if cls.__module__.startswith(MODELS) and cls.__name__ != "Backbone"
    ]
    found = [c for cls in classes for c in made_for if made_for[c] is cls]
    found += [
        c for cls in classes for c in made_for if issubclass(made_for[c], cls)
    ]
    if found:
        return found[0]
    known = sorted({cls.__name__ for cls in made_for.values()})
    raise ValueError(
        f"KerasHub reads no Hugging Face checkpoint into a "
        f"{(classes or [type(backbone)])[0].__name__}, so its layers have no "
        f"names there; give `names`. It does into: {shorten(known, 50)}"
    )


def ports_of(backbone: Layer, layers: Layers) -> list[Port]:
    """Which tensor each weight of a backbone is read from.

    Args:
        backbone: A KerasHub backbone, adapted, served or plain.
        layers: The layers of the base that it is or is within, by path.

    Raises:
        ValueError: There is no converter for it, or it does not run.
    """
    converter = converter_of(backbone)
    kind = converter.__name__.rpartition("convert_")[2]
    stage, recorder = Stage(layers), Recorder()
    try:
        converter.convert_weights(
            stage(backbone), recorder, Config(backbone, kind)
        )
    except Exception as error:  # whatever it misses of a real checkpoint
        raise ValueError(
            f"KerasHub's converter of {kind} does not run without a "
            f"checkpoint ({type(error).__name__}: {error}); give `names`"
        ) from error
    return recorder.ports


def read_backbone(folder: str) -> Any:
    """The backbone of a preset's or checkpoint's folder.

    Raises:
        ValueError: KerasHub is not installed, or cannot read it.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            f"{folder} is no .keras file; a folder needs KerasHub, which does "
            f"not import: {error}"
        ) from error
    try:
        return keras_hub.models.Backbone.from_preset(folder)
    except Exception as error:  # KerasHub raises what the files lead it to
        raise ValueError(f"{folder} was not read: {error}") from error
