"""LoRA meets the contract, with every scale and random or EVA's factors."""

from keras_lora import EVA, LoRAConfig
from tests.methods.contract import Contract
from tests.models import to_tensors


class TestLoRA(Contract):
    method = "lora"
    configs = {
        "rslora": lambda kind: LoRAConfig(
            3, 4, targets=kind.lora, scale="rslora"
        ),
        "eva": lambda kind: LoRAConfig(
            2,
            4,
            targets=kind.lora,
            init=EVA([to_tensors(kind.inputs())], rho=1.5),
        ),
    }
