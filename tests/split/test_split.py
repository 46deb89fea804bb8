"""A model in two parts: the same outputs, the same training, less of it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from keras_lora.model import surgery
from tests import models
from tests.helpers import fill, normal, refused
from tests.marks import pairs
from tests.models import (
    KINDS,
    difference,
    labels_for,
    outputs_of,
    predictions_of,
    same_bits,
    to_numpy,
    to_tensors,
    values_of,
)

GRAPHS = [name for name in KINDS if name != "subclassed"]
CENTRAL = ("nested", "flattened", "shared_layer", "bert_classifier", "gpt2")


def last_layer_adapted(kind):
    """A model whose base has LoRA on its last linear layer alone."""
    base = kind.base()
    last = keras_lora.find_targets(base, kind.lora)[-1:]
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2, targets=last))
    return fill(kind.model(base))


def head_alone(kind):
    """A frozen base and a head that trains."""
    base = kind.base()
    base.trainable = False
    return kind.placed(models.nested_in).model(base)


def parts_of(parts, x):
    """What both parts give, one after the other."""
    frozen, trainable = parts
    outputs = trainable(frozen(to_tensors(x)))
    return [to_numpy(y) for y in keras.tree.flatten(outputs)]


def features_of(frozen, x):
    return frozen.predict(x, verbose=0)


def weighted(part):
    return {id(v) for v in part.weights}


@pytest.mark.parametrize("make", [last_layer_adapted, head_alone])
@pytest.mark.parametrize("name", pairs(CENTRAL, GRAPHS))
def test_both_parts_give_what_the_model_gives(name, make):
    kind = KINDS[name]
    model, x = make(kind), kind.inputs()
    parts = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    frozen, trainable = parts
    trains = {id(v) for v in model.trainable_variables}
    assert {id(v) for v in trainable.trainable_variables} == trains
    assert frozen.weights and not frozen.trainable_variables
    assert weighted(frozen) | weighted(trainable) <= weighted(model)


def trained(model, x, labels, rate=0.02):
    """The trainable weights after 20 steps of two rows each."""
    loss = keras.tree.map_structure(lambda _: "mse", labels)
    optimizer = keras.optimizers.SGD(rate, momentum=0.5)
    # KerasHub's tasks would add metrics that take labels of another kind.
    model.compile(optimizer, loss=loss, metrics=[], weighted_metrics=[])
    model.fit(x, labels, epochs=10, batch_size=2, shuffle=False, verbose=0)
    return values_of(model.trainable_variables)


@pytest.mark.parametrize("make", [last_layer_adapted, head_alone])
@pytest.mark.parametrize(
    "name", pairs(["nested", "bert_classifier"], ["embedding", *CENTRAL])
)
def test_training_the_second_part_is_training_the_model(name, make):
    kind = KINDS[name]
    model, x = make(kind), kind.inputs()
    for layer in surgery.every_layer(model):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0
    frozen, trainable = keras_lora.split(model)
    labels = labels_for(model, x)
    start = values_of(model.trainable_variables)
    whole = dict(
        zip(
            map(id, model.trainable_variables),
            trained(model, x, labels),
            strict=True,
        )
    )
    for variable, value in zip(model.trainable_variables, start, strict=True):
        variable.assign(value)
    # KerasHub's tasks turn what they are given into inputs by themselves.
    features = keras.tree.map_structure(to_numpy, frozen(to_tensors(x)))
    part = trained(trainable, features, labels)
    expected = [whole[id(v)] for v in trainable.trainable_variables]
    assert difference(part, expected) < 1e-5
    assert difference(list(whole.values()), start) > 1e-3
    assert difference(
        outputs_of(model, x), parts_of((frozen, trainable), x)
    ) < (1e-6)


def blocks(count=4, width=6, **options):
    """A base of blocks, and a batch for it."""
    x = inputs = keras.Input((width,))
    for _ in range(count):
        x = layers.Dense(width, "tanh")(x)
    base = keras.Model(inputs, x, name="base")
    models.set_random(base.weights)
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2, **options))
    return fill(base), normal(8, width)


def test_the_model_saves_and_predicts_what_its_part_learned(tmp_path):
    base, x = blocks(targets=["dense_3"])
    model = keras.Sequential([base, layers.Dense(2, name="head")])
    model.compile("sgd", "mse")
    before = model.predict(x, verbose=0)
    frozen, trainable = keras_lora.split(model)
    trained(trainable, features_of(frozen, x), np.ones((8, 2)))
    after = model.predict(x, verbose=0)
    assert difference([after], [before]) > 1e-3
    keras_lora.save_adapter(model, tmp_path / "a.safetensors")
    other, _ = blocks(targets=["dense_3"])
    again = keras.Sequential([other, layers.Dense(2, name="head")])
    keras_lora.load_adapter(again, tmp_path / "a.safetensors")
    assert difference(predictions_of(again, x), [after]) < 1e-6


@pytest.mark.extra
def test_parts_compiled_before_ask_for_compile_after_the_base_changes():
    for change in (keras_lora.eject, keras_lora.merge):
        base, x = blocks(targets=["dense_2", "dense_3"])
        model = keras.Sequential([base, layers.Dense(2)])
        frozen, trainable = keras_lora.split(model)
        features = features_of(frozen, x)
        trainable.compile("sgd", "mse")
        trainable.fit(features, np.ones((8, 2)), verbose=0)
        change(base)
        with pytest.raises(ValueError, match="compile"):
            trainable.fit(features, np.ones((8, 2)), verbose=0)
        found = trainable.predict(frozen.predict(x, verbose=0), verbose=0)
        assert difference([found], outputs_of(model, x)) < 1e-6
        trainable.compile("sgd", "mse")
        trainable.fit(features, np.ones((8, 2)), verbose=0)


def test_the_frozen_part_follows_an_adapter_that_is_put_into_it():
    base, x = blocks(targets=["dense_3"])
    keras_lora.eject(base)
    base.trainable = False
    model = keras.Sequential([base, layers.Dense(2)])
    frozen, trainable = keras_lora.split(model)
    plain = features_of(frozen, x)
    fill(keras_lora.inject(base, keras_lora.LoRAConfig(rank=2)))
    changed = features_of(frozen, x)
    assert difference([plain], [changed]) > 1e-3
    found = trainable.predict(changed, verbose=0)
    assert difference([found], outputs_of(model, x)) < 1e-6


def test_a_mask_that_a_later_layer_reads_comes_along():
    inputs = keras.Input((models.STEPS,), dtype="int32")
    x = layers.Embedding(models.WORDS, 8, mask_zero=True)(inputs)
    x = layers.LSTM(6, return_sequences=True)(x)
    base = keras.Model(inputs, x)
    base.trainable = False
    outer = keras.Input((models.STEPS,), dtype="int32")
    y = layers.Dense(5)(base(outer))
    model = keras.Model(
        outer, layers.Dense(1)(layers.LSTM(4, return_sequences=True)(y))
    )
    x, labels = models.padded_words(), normal(models.ROWS, models.STEPS, 1)
    parts = frozen, trainable = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    for each in (model, trainable):
        each.compile("sgd", "mse")
    # Masked positions are not in the loss: the mask reaches the output.
    whole = model.evaluate(x, labels, verbose=0)
    part = trainable.evaluate(features_of(frozen, x), labels, verbose=0)
    changed = labels.copy()
    changed[0, 2:] += 100
    assert abs(whole - part) < 1e-6
    assert abs(whole - model.evaluate(x, changed, verbose=0)) < 1e-6
    assert len(frozen.output) == 2


def test_what_is_cheap_to_make_again_does_not_cross():
    inputs = {
        "x": keras.Input((8, 6), name="x"),
        "mask": keras.Input((8,), dtype="int32", name="mask"),
    }
    wide = ops.cast(ops.expand_dims(inputs["mask"], 1), "float32")
    wide = wide * ops.ones((8, 8))
    x = layers.Dense(6, trainable=False)(inputs["x"])
    y = ops.matmul(wide, layers.Dense(6)(x))
    model = keras.Model(inputs, y)
    x = {"x": normal(3, 8, 6), "mask": np.ones((3, 8), "int32")}
    parts = frozen, _ = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    shapes = {name: tuple(t.shape) for name, t in frozen.output.items()}
    assert shapes == {"dense": (None, 8, 6), "mask": (None, 8)}


def test_what_has_no_rows_is_made_again():
    inputs = keras.Input((None, 6))
    x = layers.Dense(6, name="first", trainable=False)(inputs)
    table = ops.reshape(ops.sum(x, 0), (-1, 6))  # one row a position
    model = keras.Model(inputs, layers.Dense(2)(x + table))
    x = normal(3, 5, 6)
    parts = frozen, _ = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    assert all(len(f) == 3 for f in keras.tree.flatten(features_of(frozen, x)))


def test_dropout_at_the_cut_stays_in_what_trains():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="first", trainable=False)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(x)))
    frozen, trainable = keras_lora.split(model)
    assert not any(isinstance(la, layers.Dropout) for la in frozen.layers)
    features = features_of(frozen, normal(4, 6))
    some, others = (to_numpy(trainable(features, training=True)) for _ in "ab")
    assert difference([some], [others]) > 0


def test_random_layers_in_the_frozen_part_are_named():
    inputs = keras.Input((6,))
    x = layers.GaussianNoise(1.0, name="noise")(inputs)
    x = layers.Dense(6, trainable=False)(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.warns(UserWarning, match="noise"):
        keras_lora.split(model)


def test_statistics_that_fit_moves_are_in_the_part_that_trains():
    inputs = keras.Input((6,))
    x = layers.Dense(6, trainable=False)(inputs)
    x = layers.BatchNormalization(center=False, scale=False, name="norm")(x)
    x = layers.Dense(6, trainable=False)(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    frozen, trainable = keras_lora.split(model)
    assert "norm" not in [layer.name for layer in frozen.layers]
    before = values_of(model.get_layer("norm").weights)
    trained(trainable, features_of(frozen, normal(8, 6)), np.ones((8, 2)))
    assert not same_bits(before, values_of(model.get_layer("norm").weights))


def test_layers_of_equal_names_in_nested_models_are_no_obstacle():
    def tower():
        i = keras.Input((6,), name="in")
        x = layers.Dense(6, name="one", trainable=False)(i)
        return keras.Model(i, layers.Dense(6, name="two")(x))

    inputs = keras.Input((6,))
    towers = tower(), tower()
    model = keras.Model(inputs, layers.Add()([t(inputs) for t in towers]))
    x = normal(4, 6)
    parts = frozen, trainable = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    assert len(frozen.output) == 2
    assert [t.layers[2].name for t in towers] == ["two", "two"]
    with pytest.raises(ValueError, match="same name"):
        trainable.get_config()


def test_a_model_that_is_called_twice_is_cut_twice():
    base, x = blocks(targets=["dense_3"])
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    model = keras.Model([one, two], layers.Subtract()([base(one), base(two)]))
    parts = frozen, _ = keras_lora.split(model)
    both = [x, x[::-1].copy()]
    assert difference(parts_of(parts, both), outputs_of(model, both)) < 1e-6
    assert sorted(frozen.output) == ["base.dense_2", "base.dense_2_1"]


def test_names_of_features_do_not_depend_on_what_was_made_before():
    names = []
    for _ in range(2):
        layers.Dense(1)
        inputs = keras.Input((6,))
        x = layers.Dense(6, trainable=False)(inputs)
        y = layers.Dense(6, trainable=False)(layers.Activation("relu")(x))
        y = layers.Dense(6)(y)
        model = keras.Model(
            inputs, layers.Add()([layers.Multiply()([x, y]), y])
        )
        names.append(list(keras_lora.split(model)[0].output))
    assert names[0] == names[1] == ["dense_1", "dense"]


def test_both_parts_go_through_keras_files(tmp_path):
    base, x = blocks(targets=["dense_3"])
    model = keras.Sequential([base, layers.Dense(2)])
    parts = keras_lora.split(model)
    loaded = []
    for part in parts:
        path = tmp_path / f"{part.name}.keras"
        part.save(path)
        loaded.append(keras.models.load_model(path))
    assert difference(parts_of(loaded, x), outputs_of(model, x)) < 1e-6


def test_a_model_that_was_split_is_used_as_before(tmp_path):
    base, x = blocks(targets=["dense_3"])
    model = keras.Sequential([base, layers.Dense(2)])
    keras_lora.split(model)
    keras_lora.split(model)
    before = outputs_of(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert difference(outputs_of(loaded, x), before) < 1e-6
    keras_lora.save_adapter(model, tmp_path / "a.safetensors")
    keras_lora.eject(base)
    bank = keras_lora.AdapterBank(base)
    bank.load("a", tmp_path / "a.safetensors")
    assert difference([bank.predict(x, adapter="a")], before) < 1e-5
    bank.detach()
    adapter = keras_lora.AdapterConfig(bottleneck=2, targets=["dense_1"])
    fill(keras_lora.inject(base, adapter))
    parts = keras_lora.split(model)
    assert difference(parts_of(parts, x), outputs_of(model, x)) < 1e-6
    assert difference(outputs_of(model, x), before) > 1e-3


def test_a_subclassed_model_is_refused_by_name():
    model = models.subclassed()
    refused(lambda: keras_lora.split(model), "'subclassed'", "no graph")


def test_all_that_stands_in_the_way_is_named():
    inputs = keras.Input((6,))
    inner = models.Subclassed(name="inner")
    one, two = inner(inputs), layers.Dense(3, name="other")(inputs)
    model = keras.Model(inputs, layers.Add()([one, two]))
    refused(
        lambda: keras_lora.split(model),
        "inner (Subclassed, with no graph to cut within)",
        "other",
        "no layer with weights comes before it",
    )


def test_a_model_of_which_nothing_trains_is_refused():
    model = models.functional()
    model.trainable = False
    refused(lambda: keras_lora.split(model), "nothing in", "trains")


def test_what_is_not_built_or_no_model_is_refused():
    refused(lambda: keras_lora.split(layers.Dense(1)), "Received: Dense")
    model = keras.Sequential([layers.Dense(1)])
    refused(lambda: keras_lora.split(model), "not built")


def test_a_served_base_is_refused():
    base = KINDS["functional"].base()
    bank = keras_lora.AdapterBank(base)
    refused(lambda: keras_lora.split(base), "served by an AdapterBank")
    bank.detach()
