"""Bottlenecks after a layer meet the contract."""

from keras_lora import AdapterConfig
from tests.methods.contract import Contract


class TestBottleneck(Contract):
    method = "bottleneck"
    configs = {
        "norm": lambda kind: AdapterConfig(
            2, activation="tanh", targets=kind.outputs, layer_norm=True
        ),
    }
    refusal = "cannot be folded into a kernel"
