"""LoRA+: `B` takes larger steps, through the usual compile and fit."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import LoRAConfig, lora_plus
from tests.helpers import numpy_of
from tests.models import set_random, values_of

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")


def model_with_head():
    base = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, activation="tanh"), layers.Dense(4)]
    )
    set_random(base.weights)
    keras_lora.inject(base, LoRAConfig(2))
    model = keras.Sequential([base, layers.Dense(2)])
    model.build((None, 6))
    set_random(model.trainable_variables, seed=4)
    return model


def train(model, optimizer, epochs=1):
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def steps(optimizer):
    """How far one step moves each trainable variable, by name."""
    model = model_with_head()
    before = values_of(model.trainable_variables)
    train(model, optimizer)
    return [
        (v.name, numpy_of(v) - old)
        for v, old in zip(model.trainable_variables, before, strict=True)
    ]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "scheduled": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.01, 10), weight_decay=0.0
    ),
    "clipped": lambda: keras.optimizers.SGD(0.01, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_b_alone_takes_larger_steps(name):
    plain, plus = (
        steps(OPTIMIZERS[name]()),
        steps(lora_plus(OPTIMIZERS[name](), 8)),
    )
    assert {name for name, _ in plain} == {"lora_a", "lora_b", "kernel", "bias"}
    for (name, one), (_, other) in zip(plain, plus, strict=True):
        assert np.abs(one).max() > 1e-6
        ratio = 8 if name == "lora_b" else 1
        np.testing.assert_allclose(other, ratio * one, rtol=1e-3, atol=1e-7)


def test_a_ratio_of_one_is_the_plain_optimizer():
    plain = train(model_with_head(), "adam", 3)
    plus = train(model_with_head(), lora_plus("adam", 1.0), 3)
    for one, other in zip(
        values_of(plain.trainable_variables),
        values_of(plus.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_it_is_an_optimizer_of_the_same_class_and_settings():
    adam = keras.optimizers.Adam(0.3, beta_1=0.5, clipnorm=2.0)
    plus = lora_plus(adam, 4)
    assert isinstance(plus, type(adam))
    assert float(plus.learning_rate) == pytest.approx(0.3)
    assert (plus.beta_1, plus.clipnorm, plus.ratio) == (0.5, 2.0, 4.0)
    plus.learning_rate = 0.1
    assert float(plus.learning_rate) == pytest.approx(0.1)


def test_training_goes_on_from_a_saved_model(tmp_path):
    plus = lora_plus(keras.optimizers.Adam(0.01), 8)
    model = train(model_with_head(), plus, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.ratio == 8
    assert int(loaded.optimizer.iterations) == 2
    for some in (model, loaded):
        some.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(
        values_of(model.trainable_variables),
        values_of(loaded.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_what_it_cannot_speed_up_is_refused():
    adam = keras.optimizers.Adam()
    built = keras.optimizers.Adam()
    built.build([keras.Variable(np.ones(2))])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    for optimizer, ratio, words in (
        (adam, 0, "ratio=0"),
        (adam, float("nan"), "ratio=nan"),
        (built, 4, "built already"),
        (keras.optimizers.Nadam(), 4, "Nadam cannot step some"),
        (scaled, 4, "wraps another"),
        (lora_plus(adam), 4, "wraps another"),
    ):
        with pytest.raises(ValueError, match=words):
            lora_plus(optimizer, ratio)


def test_a_model_without_lora_weights_is_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="none of the model's variables"):
        train(model, lora_plus("sgd"))
