"""LoRA: a low-rank update of a layer's kernel, and where it may start."""

from keras_lora.methods.lora.config import LoRAConfig as LoRAConfig
from keras_lora.methods.lora.conv import LoRAConv1D as LoRAConv1D
from keras_lora.methods.lora.conv import LoRAConv2D as LoRAConv2D
from keras_lora.methods.lora.conv import LoRAConv3D as LoRAConv3D
from keras_lora.methods.lora.dense import LoRADense as LoRADense
from keras_lora.methods.lora.dense import LoRAEinsumDense as LoRAEinsumDense
from keras_lora.methods.lora.embedding import LoRAEmbedding as LoRAEmbedding
from keras_lora.methods.lora.eva import EVA as EVA
from keras_lora.methods.lora.layers import lora_class as lora_class
from keras_lora.methods.lora.lora_plus import lora_plus as lora_plus
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
