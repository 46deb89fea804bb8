"""Parameter-efficient fine-tuning for any Keras 3 model."""

from keras_lora.bank.bank import AdapterBank
from keras_lora.files.combine import combine
from keras_lora.files.format import inspect_adapter
from keras_lora.files.load import load_adapter
from keras_lora.files.save import save_adapter
from keras_lora.methods.bottleneck.config import AdapterConfig
from keras_lora.methods.bottleneck.layer import Adapter
from keras_lora.methods.dora import DoRAConfig, DoRADense, DoRAEinsumDense
from keras_lora.methods.ia3 import IA3Config
from keras_lora.methods.lora.config import LoRAConfig
from keras_lora.methods.lora.conv import LoRAConv1D, LoRAConv2D, LoRAConv3D
from keras_lora.methods.lora.dense import LoRADense, LoRAEinsumDense
from keras_lora.methods.lora.embedding import LoRAEmbedding
from keras_lora.methods.lora.eva import EVA
from keras_lora.methods.lora.lora_plus import lora_plus
from keras_lora.rewrite.disabled import disabled
from keras_lora.rewrite.inject import eject, inject
from keras_lora.rewrite.merge import merge
from keras_lora.rewrite.summary import summary
from keras_lora.targets.find import find_targets
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
