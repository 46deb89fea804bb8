"""Parameter-efficient fine-tuning for any Keras 3 model."""

from keras_lora.adapter_config import AdapterConfig
from keras_lora.adapter_file import inspect_adapter
from keras_lora.bank import AdapterBank
from keras_lora.bottleneck import Adapter
from keras_lora.combination import combine
from keras_lora.config import LoRAConfig
from keras_lora.dora import DoRAConfig, DoRADense, DoRAEinsumDense
from keras_lora.eva import EVA
from keras_lora.ia3 import IA3Config
from keras_lora.loading import load_adapter
from keras_lora.lora_conv import LoRAConv1D, LoRAConv2D, LoRAConv3D
from keras_lora.lora_dense import LoRADense, LoRAEinsumDense
from keras_lora.lora_embedding import LoRAEmbedding
from keras_lora.lora_plus import lora_plus
from keras_lora.merge import merge
from keras_lora.rewrite import eject, inject
from keras_lora.saving import save_adapter
from keras_lora.summary import summary
from keras_lora.switch import disabled
from keras_lora.targets import find_targets
from keras_lora.version import __version__ as __version__

__all__ = [
    "Adapter",
    "AdapterBank",
    "AdapterConfig",
    "DoRAConfig",
    "DoRADense",
    "DoRAEinsumDense",
    "EVA",
    "IA3Config",
    "LoRAConfig",
    "LoRAConv1D",
    "LoRAConv2D",
    "LoRAConv3D",
    "LoRADense",
    "LoRAEinsumDense",
    "LoRAEmbedding",
    "combine",
    "disabled",
    "eject",
    "find_targets",
    "inject",
    "inspect_adapter",
    "load_adapter",
    "lora_plus",
    "merge",
    "save_adapter",
    "summary",
]
