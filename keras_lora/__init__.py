"""Parameter-efficient fine-tuning for any Keras 3 model."""

import sys
from importlib import import_module as _import

from keras_lora.bank import AdapterBank
from keras_lora.files import combine, load_adapter, save_adapter
from keras_lora.methods.bottleneck import Adapter, AdapterConfig
from keras_lora.methods.dora import DoRAConfig, DoRADense, DoRAEinsumDense
from keras_lora.methods.ia3 import IA3Config
from keras_lora.methods.lora import (
    EVA,
    LoRAConfig,
    LoRAConv1D,
    LoRAConv2D,
    LoRAConv3D,
    LoRADense,
    LoRAEinsumDense,
    LoRAEmbedding,
    lora_plus,
)
from keras_lora.methods.side import SideConfig
from keras_lora.peft import inspect_adapter, load_peft, save_peft
from keras_lora.rewrite import (
    disabled,
    eject,
    find_targets,
    inject,
    merge,
    summary,
)
from keras_lora.split import precompute, split
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
    "SideConfig",
    "combine",
    "disabled",
    "eject",
    "find_targets",
    "inject",
    "inspect_adapter",
    "load_adapter",
    "load_peft",
    "lora_plus",
    "merge",
    "precompute",
    "save_adapter",
    "save_peft",
    "split",
    "summary",
]

# Pickles of version 0.1 name the files that these were in then.
for _old, _new in {
    "adapter_config": "methods.bottleneck.config",
    "bottleneck": "methods.bottleneck",
    "config": "methods.lora.config",
    "dora": "methods.dora",
    "eva": "methods.lora.eva",
    "ia3": "methods.ia3",
    "lora_conv": "methods.lora.conv",
    "lora_dense": "methods.lora.dense",
    "lora_embedding": "methods.lora.embedding",
    "surgery": "model.surgery",
}.items():
    sys.modules[f"keras_lora.{_old}"] = _import(f"keras_lora.{_new}")
