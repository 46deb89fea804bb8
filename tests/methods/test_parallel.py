"""Bottlenecks beside a layer meet the contract."""

from keras_lora import AdapterConfig
from tests.methods.contract import Contract


class TestParallel(Contract):
    method = "parallel"
    configs = {
        "parallel": lambda kind: AdapterConfig(
            2,
            activation="tanh",
            targets=kind.outputs,
            layer_norm=True,
            placement="parallel",
            scale=4.0,
        ),
    }
    refusal = "cannot be folded"
