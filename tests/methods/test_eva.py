"""EVA: LoRA factors start along a layer's inputs, and rank moves to need."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import EVA, LoRAConfig
from tests.banks import call, off
from tests.helpers import normal, state
from tests.methods.test_pissa import dense, factors
from tests.models import KINDS, outputs_of, same_bits, set_random


def rows_along(*directions, count=200, seed=0):
    """Rows spread along some directions, each less than the one before."""
    rng = np.random.default_rng(seed)
    size = 2.0 ** -np.arange(len(directions))
    rows = rng.normal(size=(count, len(directions))) * size
    return (rows @ np.array(directions)).astype("float32")


def test_a_starts_along_the_inputs_in_order():
    directions = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0].T
    x = rows_along(*directions[:3])
    model = dense()
    plain = outputs_of(model, x)
    batches = [x[:80], x[80:90], x[90:]]
    keras_lora.inject(model, LoRAConfig(2, init=EVA(batches)))
    assert same_bits(plain, outputs_of(model, x))
    exact = np.linalg.svd(x, full_matrices=False)[2]
    a = factors(model)["lora_a"]
    cosines = np.abs(np.sum(a.T * exact[:2], axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), 1, rtol=1e-5)


def two_branches():
    inputs = keras.Input((8,))
    left = layers.Dense(4, name="narrow")(inputs[:, :4])
    right = layers.Dense(4, name="wide")(inputs[:, 4:])
    return keras.Model(inputs, layers.Add()([left, right]))


def test_rank_moves_to_layers_whose_inputs_need_it(tmp_path):
    model = two_branches()
    x = normal(64, 8)
    x[:, 1:4] *= 1e-4  # the left branch sees a line, the right one all of it
    config = LoRAConfig(2, alpha=6, init=EVA([x], rho=1.5))
    keras_lora.inject(model, config)
    rows = {row.path: row.size for row in keras_lora.summary(model).rows}
    assert rows == {"narrow": "rank 1, alpha 3", "wide": "rank 3, alpha 9"}
    set_random(model.trainable_variables)
    adapted = call(model, x)
    keras_lora.save_adapter(model, tmp_path / "task")
    keras_lora.load_adapter(keras_lora.eject(model), tmp_path / "task")
    assert off(call(model, x), adapted) == 0


def test_without_rho_every_layer_has_the_rank_asked_for():
    model = two_branches()
    config = LoRAConfig(3, init=EVA([normal(20, 8)]))
    keras_lora.inject(model, config)
    sizes = {row.size for row in keras_lora.summary(model).rows}
    assert sizes == {"rank 3, alpha 16"}


def test_what_eva_cannot_do_is_refused_and_the_model_is_as_it_was():
    for rho in (0.5, float("nan"), True):
        with pytest.raises(ValueError, match="rho"):
            EVA([], rho=rho)
    model = KINDS["convolutions"].base()
    before = state(model)
    config = LoRAConfig(2, targets=["first", "dense"], init=EVA([]))
    with pytest.raises(ValueError, match="first: EVA reads the inputs of"):
        keras_lora.inject(model, config)
    config = LoRAConfig(2, init=EVA([]))
    with pytest.raises(ValueError, match="dense: EVA saw no inputs of it"):
        keras_lora.inject(model, config)
    with pytest.raises(Exception, match="."):
        keras_lora.inject(model, LoRAConfig(2, init=EVA([normal(2, 3)])))
    assert state(model) == before
