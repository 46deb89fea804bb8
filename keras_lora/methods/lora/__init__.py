"""LoRA: a low-rank update of a layer's kernel, and where it may start."""

from keras_lora.methods.lora.config import LoRAConfig
from keras_lora.methods.lora.conv import LoRAConv1D, LoRAConv2D, LoRAConv3D
from keras_lora.methods.lora.dense import LoRADense, LoRAEinsumDense
from keras_lora.methods.lora.embedding import LoRAEmbedding
from keras_lora.methods.lora.eva import EVA
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.lora.lora_plus import lora_plus
from keras_lora.methods.lora.low_rank import rank_and_alpha, wrong_low_rank
from keras_lora.methods.lora.pissa import pissa_class
from keras_lora.methods.lora.stack import LoRAStack
from keras_lora.methods.method import Method

LORA = Method(
    "lora",
    LoRAConfig,
    lora_class,
    rank_and_alpha,
    check=wrong_low_rank,
    stack=LoRAStack,
)
PISSA = Method(
    "svd", LoRAConfig, pissa_class, rank_and_alpha, reads_kernel=True
)
"""PiSSA and MiLoRA while they train; their files are plain LoRA's."""
