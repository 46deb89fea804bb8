"""Everything `compile` and `fit` can be told works on an adapted model."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.helpers import normal, numpy_of
from tests.marks import pairs
from tests.models import same_bits, set_random, values_of

BACKEND = keras.backend.backend()
every_method = pytest.mark.parametrize("method", ["lora", "bottleneck"])
Adam, SGD = keras.optimizers.Adam, keras.optimizers.SGD


def make(method="lora", dtype=None, shape=(6,)):
    """A base of three kinds of layers, and an adapted model on it."""
    base = keras.Sequential(
        [
            keras.Input(shape),
            layers.Dense(8, activation="tanh", dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dense(4, dtype=dtype),
        ]
    )
    set_random(base.weights, 1)
    config = {
        "lora": LoRAConfig(2),
        "bottleneck": AdapterConfig(3, targets=["dense"]),
    }[method]
    keras_lora.inject(base, config)
    model = keras.Sequential([base, layers.Dense(2, dtype=dtype)])
    model.build((None, *shape))
    set_random(model.trainable_variables, 2)
    return base, model


def data(rows=8):
    return normal(rows, 6), normal(rows, 2, seed=1)


def frozen_of(base):
    trained = {id(v) for v in base.trainable_variables}
    return [v for v in base.weights if id(v) not in trained]


def trained_by(fit, method="lora", dtype=None, **compiled):
    """Trains a new model; gives what trained, and checks what must not."""
    base, model = make(method, dtype)
    frozen = values_of(frozen_of(base))
    before = values_of(model.trainable_variables)
    compiled.setdefault("optimizer", SGD(0.01))
    compiled.setdefault("loss", "mse")
    model.compile(**compiled)
    fit(model)
    after = values_of(model.trainable_variables)
    assert same_bits(values_of(frozen_of(base)), frozen)
    assert all(np.isfinite(a).all() for a in after)
    moved = [
        not np.array_equal(a, b) for a, b in zip(after, before, strict=True)
    ]
    assert all(moved)
    return after


def plainly(model):
    """Two epochs of two batches."""
    model.fit(*data(), batch_size=4, epochs=2, shuffle=False, verbose=0)


def near(some, others, tolerance=1e-5):
    return all(
        np.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(some, others, strict=True)
    )


OPTIMIZERS = {
    "clipnorm": lambda: Adam(0.05, clipnorm=0.1),
    "clipvalue": lambda: Adam(0.05, clipvalue=0.1),
    "global clipnorm": lambda: Adam(0.05, global_clipnorm=0.1),
    "accumulation": lambda: Adam(0.05, gradient_accumulation_steps=2),
    "ema": lambda: Adam(0.05, use_ema=True, ema_momentum=0.5),
    "ema, overwritten": lambda: Adam(
        0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "weight decay": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(Adam(0.05)),
    "momentum": lambda: SGD(0.05, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize(
    ("name", "method", "eagerly"),
    pairs(
        [(name, "lora", True) for name in OPTIMIZERS]
        + [("accumulation", "bottleneck", False), ("ema", "lora", False)],
        [(name, "lora", False) for name in OPTIMIZERS]
        + [("ema", "bottleneck", False)],
    ),
)
def test_an_optimizer_moves_the_adapter_alone(name, method, eagerly):
    trained_by(
        plainly,
        method,
        optimizer=OPTIMIZERS[name](),
        run_eagerly=eagerly and BACKEND != "jax",
    )


def test_accumulated_gradients_are_those_of_the_whole_batch():
    halves = trained_by(
        lambda m: m.fit(
            *data(), batch_size=4, epochs=2, shuffle=False, verbose=0
        ),
        optimizer=SGD(0.01, gradient_accumulation_steps=2),
    )
    whole = trained_by(
        lambda m: m.fit(
            *data(), batch_size=8, epochs=2, shuffle=False, verbose=0
        )
    )
    assert near(halves, whole)
    assert not near(halves, trained_by(plainly))


def test_averaged_weights_are_in_the_file(tmp_path):
    base, model = make()
    model.compile(SGD(0.01, use_ema=True, ema_momentum=0.5), "mse")
    plainly(model)
    averages = values_of(model.optimizer._model_variables_moving_average)
    assert same_bits(values_of(model.trainable_variables), averages)
    assert not near(averages, trained_by(plainly))
    keras_lora.save_adapter(model, tmp_path / "task")
    _, again = make()
    keras_lora.load_adapter(again, tmp_path / "task")
    assert same_bits(values_of(again.trainable_variables), averages)


@every_method
def test_float16_trains_with_a_scaled_loss(method):
    """The model is float16, its adapter float32."""
    optimizer = keras.optimizers.LossScaleOptimizer(Adam(0.05), 2.0**10)
    base, model = make(method, "mixed_float16")
    adapter = [v for v in base.trainable_variables]
    assert {str(v.dtype) for v in adapter} == {"float32"}
    trained_by(plainly, method, "mixed_float16", optimizer=optimizer)


@every_method
def test_float64_is_not_rounded_by_the_adapter(method):
    if BACKEND == "jax":
        pytest.skip("JAX computes in float32 unless told otherwise")
    base, model = make(method, "float64")
    y = numpy_of(model(normal(3, 6, dtype="float64")))
    assert y.dtype == np.float64
    trained_by(plainly, method, "float64")
    keras_lora.eject(base)
    single, _ = make(method)
    keras_lora.eject(single)
    single.set_weights(base.get_weights())
    x = normal(3, 6, dtype="float64")
    np.testing.assert_allclose(
        numpy_of(base(x)), numpy_of(single(x.astype("f4"))), atol=1e-4
    )


def batches(rows=8, size=4):
    x, y = data(rows)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, rows, size)]


class Sequence(keras.utils.PyDataset):
    """The batches as a dataset of Keras's own kind."""

    def __len__(self):
        return len(batches())

    def __getitem__(self, number):
        return batches()[number]


def generated():
    while True:
        yield from batches()


def test_input_of_every_kind_trains_alike():
    expected = trained_by(plainly)
    once = {"epochs": 2, "verbose": 0, "shuffle": False}
    steps = {"epochs": 2, "verbose": 0, "steps_per_epoch": 2}
    assert near(expected, trained_by(lambda m: m.fit(Sequence(), **once)))
    assert near(expected, trained_by(lambda m: m.fit(generated(), **steps)))


def test_a_tf_data_pipeline_trains_alike():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(4).prefetch(1)
    got = trained_by(lambda m: m.fit(dataset, epochs=2, verbose=0))
    assert near(trained_by(plainly), got)


def test_rows_of_weight_zero_do_not_train():
    x, y = data()
    weights = np.array([1, 0] * 4, "float32")
    other = y.copy()
    other[1::2] += 100

    def fit(labels, weights):
        return trained_by(
            lambda m: m.fit(x, labels, sample_weight=weights, verbose=0)
        )

    assert near(fit(y, weights), fit(other, weights))
    assert not near(fit(y, None), fit(other, None))


@pytest.mark.parametrize(
    ("size", "method"), [(1, "lora"), (3, "lora"), (1, "bottleneck")]
)
def test_batches_of_one_and_ragged_ones_train(size, method):
    trained_by(
        lambda m: m.fit(*data(), batch_size=size, verbose=0),
        method,
        optimizer=Adam(0.05),
    )


@every_method
def test_a_ragged_last_batch_predicts_what_single_rows_do(method):
    _, model = make(method)
    x, _ = data(5)
    whole = model.predict(x, batch_size=2, verbose=0)
    for number, row in enumerate(x):
        one = model.predict(row[None], verbose=0)
        np.testing.assert_allclose(one[0], whole[number], rtol=1e-4, atol=1e-5)


@every_method
def test_no_rows_give_no_rows(method):
    _, model = make(method)
    assert model(np.zeros((0, 6), "float32")).shape == (0, 2)


@every_method
def test_lengths_may_change_from_batch_to_batch(method):
    _, model = make(method, shape=(None, 6))
    model.compile(SGD(0.01), "mse")
    before = values_of(model.trainable_variables)
    for length in (3, 7, 1):
        x = normal(2, length, 6, seed=length)
        y = normal(2, length, 2)
        assert np.isfinite(model.train_on_batch(x, y))
        got = model.predict(x, verbose=0)
        assert got.shape == y.shape
        last = model.predict(x[:, -1:], verbose=0)
        np.testing.assert_allclose(got[:, -1:], last, rtol=1e-4, atol=1e-5)
    assert not same_bits(values_of(model.trainable_variables), before)


@every_method
def test_a_mask_reaches_what_stands_behind_the_adapter(method):
    """What is padded counts for nothing."""
    base = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(9, 6, mask_zero=True, name="table"),
            layers.Dense(6, activation="tanh", name="inner"),
        ]
    )
    set_random(base.weights, 1)
    config = LoRAConfig(2, targets=["table", "inner"])
    if method == "bottleneck":
        config = AdapterConfig(2, targets=["table", "inner"])
    keras_lora.inject(base, config)
    model = keras.Sequential(
        [base, layers.GlobalAveragePooling1D(), layers.Dense(2)]
    )
    model.build((None, 5))
    set_random(model.trainable_variables, 2)
    words = np.array([[3, 4, 0, 0, 0], [5, 6, 7, 8, 1]])
    y = base(words)
    pooled = numpy_of(model.layers[1](y))
    y = numpy_of(y)
    np.testing.assert_allclose(pooled[0], y[0, :2].mean(0), atol=1e-5)
    np.testing.assert_allclose(pooled[1], y[1].mean(0), atol=1e-5)
    assert np.abs(pooled[0] - y[0].mean(0)).max() > 1e-3


@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles otherwise")
@every_method
def test_jit_compiled_or_not_trains_alike(method):
    some, others = (
        trained_by(plainly, method, jit_compile=jit) for jit in (True, False)
    )
    assert near(some, others)


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no such option")
def test_several_steps_in_one_execution_train_alike():
    got = trained_by(
        lambda m: m.fit(
            *data(), batch_size=2, epochs=2, shuffle=False, verbose=0
        ),
        steps_per_execution=2,
    )
    want = trained_by(
        lambda m: m.fit(
            *data(), batch_size=2, epochs=2, shuffle=False, verbose=0
        )
    )
    assert near(got, want)


def test_class_weights_and_metrics_are_those_of_any_model():
    _, model = make()
    x, _ = data()
    y = np.array([0, 1] * 4)
    model.compile(
        SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
    )
    history = model.fit(x, y, class_weight={0: 1.0, 1: 3.0}, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] <= 1
