"""IA3: the contract, its formula, and the layers it goes to."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import IA3Config
from tests.bank.test_bank_models import EQUATIONS, check_mixed
from tests.banks import make_task
from tests.helpers import numpy_of
from tests.methods.contract import Contract, linear
from tests.models import KINDS, set_random


class TestIA3(Contract):
    method = "ia3"
    configs = {"ia3": lambda kind: IA3Config(targets=linear(kind))}
    refusal = "factors scale"


def test_ia3_rescales_what_comes_out_of_a_layer():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, activation="tanh")]
    )
    set_random(model.weights)
    x = np.random.default_rng(3).normal(size=(4, 5)).astype("float32")
    plain = numpy_of(model(x))
    keras_lora.inject(model, IA3Config("all-linear"))
    gain = np.array([0.5, -1.0, 2.0], "float32")
    model.trainable_variables[0].assign(gain)
    np.testing.assert_allclose(
        numpy_of(model(x)), plain * (1 + gain), rtol=1e-6
    )


def test_ia3_goes_to_keys_values_and_wide_layers():
    pytest.importorskip("keras_hub")
    model = KINDS["bert_backbone"].base()
    keras_lora.inject(model, IA3Config(layers=[1]))
    block = "transformer_layer_1"
    assert [row.path for row in keras_lora.summary(model).rows] == [
        f"{block}/self_attention_layer/key",
        f"{block}/self_attention_layer/value",
        f"{block}/feedforward_intermediate_dense",
    ]
    with pytest.raises(ValueError, match="matches no layer"):
        keras_lora.inject(KINDS["functional"].base(), IA3Config())
    with pytest.raises(ValueError, match="targets=5(.|\n)*layers=5|layers=5"):
        IA3Config(5, 5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_ia3_on_every_equation_is_served(equation, tmp_path):
    einsum, shape_out, shape_in = EQUATIONS[equation]
    inputs = keras.Input(shape_in)
    dense = layers.EinsumDense(einsum, shape_out, activation="tanh")
    base = keras.Model(inputs, dense(inputs))
    set_random(base.weights)
    x = np.random.default_rng(1).normal(size=(8, *shape_in)).astype("float32")
    config = IA3Config("all-linear")
    tasks = {
        name: make_task(base, tmp_path / name, config, x, seed=ord(name))
        for name in "ab"
    }
    check_mixed(base, x, tasks)
