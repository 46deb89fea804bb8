"""Keras's own ways to save keep working on an adapted model."""

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora import AdapterConfig, LoRAConfig
from tests.elsewhere import error_of_loading, life_of_reloaded_model
from tests.marks import pairs
from tests.models import (
    KINDS,
    alone,
    compile_for,
    difference,
    fit,
    flattened_into,
    labels_for,
    nested_in,
    outputs_of,
    same_bits,
    sequence_on,
    set_random,
    values_of,
)

TENSORFLOW = keras.backend.backend() == "tensorflow"
TASKS = ("bert_classifier", "gpt2")
every_method = pytest.mark.parametrize("method", ["lora", "bottleneck"])
# A bottleneck asks something else of Keras where the layers are of other kinds.
KINDS_OF_OUTPUTS = (
    "subclassed",
    "block_without_build",
    "attention",
    "recurrent",
    "convolutions",
    "bert_backbone",
)
CASES = [
    *((name, "lora") for name in KINDS),
    *((name, "bottleneck") for name in KINDS_OF_OUTPUTS),
]
RELOADED = [
    ("functional", alone, "lora"),
    ("functional", alone, "bottleneck"),
    ("functional", nested_in, "lora"),
    ("functional", flattened_into, "lora"),
    ("functional", sequence_on, "lora"),
    ("subclassed", alone, "lora"),
    ("subclassed", alone, "bottleneck"),
    ("subclassed", nested_in, "lora"),
    ("attention", alone, "lora"),
    ("attention", nested_in, "lora"),
    ("attention", flattened_into, "bottleneck"),
    ("block_without_build", alone, "lora"),
    ("block_without_build", nested_in, "bottleneck"),
    ("block_without_build", flattened_into, "lora"),
    ("grouped_query_attention", alone, "lora"),
    ("shared_layer", flattened_into, "lora"),
    ("recurrent", alone, "bottleneck"),
    ("bert_backbone", alone, "lora"),
    ("bert_backbone", nested_in, "lora"),
    ("bert_backbone", flattened_into, "bottleneck"),
    ("bert_classifier", alone, "lora"),
    ("gpt2", alone, "lora"),
]
COMPILED = [
    ("functional", nested_in, "lora"),
    ("subclassed", alone, "bottleneck"),
    ("bert_backbone", flattened_into, "bottleneck"),
]
EAGER = [
    ("functional", flattened_into, "lora"),
    ("functional", sequence_on, "lora"),
    ("attention", nested_in, "lora"),
    ("block_without_build", nested_in, "bottleneck"),
    ("shared_layer", flattened_into, "lora"),
]
MORE_EAGER = [
    ("functional", alone, "lora"),
    ("attention", flattened_into, "bottleneck"),
    ("recurrent", alone, "bottleneck"),
    ("bert_backbone", nested_in, "lora"),
    ("gpt2", alone, "lora"),
]
reloaded = pytest.mark.parametrize(
    ("name", "around", "method", "eagerly"),
    pairs(
        [(*case, True) for case in EAGER]
        + [(*case, False) for case in COMPILED[:1]],
        [(*case, True) for case in MORE_EAGER]
        + [(*case, False) for case in RELOADED],
    ),
)
eagerly_or_not = pytest.mark.parametrize(
    ("method", "eagerly"),
    pairs(
        [("lora", True), ("bottleneck", False)],
        [("lora", False)],
    ),
)


def config_for(name, method, dropout=0.0):
    kind = KINDS[name]
    if method == "lora":
        return LoRAConfig(2, 4, dropout, targets=kind.lora)
    return AdapterConfig(
        3, activation="gelu", targets=kind.outputs, dropout=dropout
    )


def adapted(name, method, around=alone, seed=0, dropout=0.0):
    """An adapted model of a kind that is ready to train."""
    kind = KINDS[name].placed(around)
    base = kind.base(seed)
    model = kind.model(base)
    config = config_for(name, method, dropout)
    keras_lora.inject(base, config, train=kind.train)
    return model


def with_values(model):
    set_random(model.trainable_variables, seed=5, size=0.1)
    return model


@reloaded
def test_reloaded_keras_file_goes_on_where_the_model_stopped(
    name, around, method, eagerly, tmp_path, elsewhere
):
    kind = KINDS[name]
    x = kind.inputs()
    base = kind.base()
    model = kind.placed(around).model(base)
    in_base = {id(v) for v in base.weights}
    keras_lora.inject(base, config_for(name, method), train=kind.train)
    trained = {id(v) for v in model.trainable_variables}
    frozen = [
        number
        for number, variable in enumerate(model.weights)
        if id(variable) in in_base and id(variable) not in trained
    ]
    labels = labels_for(model, x)
    before = outputs_of(model, x)
    fit(compile_for(model, labels, eagerly=eagerly), x, labels)
    files = tmp_path / "model.keras", tmp_path / "again.safetensors"
    mine = tmp_path / "task.safetensors"
    keras_lora.save_adapter(model, mine)
    outputs = outputs_of(model, x)
    assert difference(before, outputs) > 1e-3

    model.save(files[0])
    ejects, is_task = not kind.train, name in TASKS
    life = elsewhere(
        life_of_reloaded_model,
        files,
        x,
        labels,
        frozen,
        ejects,
        is_task,
        eagerly,
    )

    assert difference(outputs, life["outputs"]) <= 1e-5
    assert mine.read_bytes() == files[1].read_bytes()
    assert life["frozen"] and life["same_trained"]
    base_values = values_of(model.weights[number] for number in frozen)
    assert same_bits(base_values, life["base"])
    assert same_bits(base_values, life["base_after_fit"])
    assert life["moved"] > 1e-3
    if not is_task:
        assert life["steps"] == int(model.optimizer.iterations)
        losses = fit(model, x, labels)
        tolerance = 1e-6 if TENSORFLOW else 1e-5
        assert np.allclose(losses, life["losses"], rtol=0, atol=tolerance)
    if ejects:
        assert not any(m.startswith("keras_lora") for m in life["modules"])
        assert life["weights"] == len(keras_lora.eject(model).weights)


def test_layers_without_weights_may_be_named_in_train(tmp_path):
    layers = keras.layers
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="inner"),
            layers.Dropout(0.1, name="last_dropout"),
            layers.Activation("tanh", name="last_tanh"),
            layers.Dense(3, name="last_dense"),
        ]
    )
    keras_lora.inject(base, LoRAConfig(2), train="last_.*")
    model = keras.Sequential([base, layers.Dense(2)])
    with_values(model).save(tmp_path / "model.keras")
    mine, again = tmp_path / "mine.safetensors", tmp_path / "again.safetensors"

    other = keras.saving.load_model(tmp_path / "model.keras")

    keras_lora.save_adapter(model, mine)
    keras_lora.save_adapter(other, again)
    assert mine.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    "name", ["functional", "subclassed", "attention", "bert_classifier"]
)
def test_keras_file_does_not_load_as_a_plain_model(
    name, tmp_path, without_keras_lora
):
    file = tmp_path / "model.keras"
    with_values(adapted(name, "lora")).save(file)

    error = without_keras_lora(error_of_loading, name, file)

    assert error is not None


@pytest.mark.parametrize(("name", "method"), pairs(CASES[::4], CASES))
def test_weights_files_restore_the_base_and_the_adapter(name, method, tmp_path):
    """A file of the plain base goes into an adapted one, which has its own."""
    kind = KINDS[name].placed(alone)
    base, x = kind.base(), kind.inputs()
    plain, mine = tmp_path / "base.weights.h5", tmp_path / "model.weights.h5"
    base.save_weights(plain)
    model = adapted(name, method, seed=1, dropout=0.2)

    model.load_weights(plain)

    assert same_bits(outputs_of(base, x), outputs_of(model, x))
    keras_lora.save_adapter(model, tmp_path / "task.safetensors")
    keras_lora.load_adapter(base, tmp_path / "task.safetensors")

    with_values(model).save_weights(mine)
    other = adapted(name, method, seed=1)
    assert difference(outputs_of(model, x), outputs_of(other, x)) > 1e-2
    other.load_weights(mine)

    assert same_bits(outputs_of(model, x), outputs_of(other, x))


class Interrupt(keras.callbacks.Callback):
    """Stops a run as a crash would, within its third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 5:
            raise InterruptedError


@eagerly_or_not
def test_interrupted_run_ends_as_an_uninterrupted_one(
    method, eagerly, tmp_path
):
    x = KINDS["functional"].inputs()

    def run(*callbacks):
        keras.utils.set_random_seed(7)
        model = adapted("functional", method, nested_in)
        labels = labels_for(model, x)
        compile_for(model, labels, eagerly=eagerly)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(
            x,
            labels,
            epochs=4,
            batch_size=2,
            shuffle=False,
            verbose=0,
            callbacks=[backup, *callbacks] if callbacks else [],
        )
        return model

    whole = run()
    with pytest.raises(InterruptedError):
        run(Interrupt())
    resumed = run(keras.callbacks.Callback())

    assert int(resumed.optimizer.iterations) == 8
    gap = difference(values_of(whole.weights), values_of(resumed.weights))
    assert gap == 0.0 if TENSORFLOW else gap <= 1e-6


@eagerly_or_not
@pytest.mark.parametrize("weights_only", [True, False])
def test_checkpoint_of_the_best_epoch_is_that_epoch(
    method, eagerly, weights_only, tmp_path
):
    x = KINDS["functional"].inputs()
    model = adapted("functional", method, flattened_into)
    labels = labels_for(model, x)
    compile_for(model, labels, eagerly=eagerly)
    suffix = "weights.h5" if weights_only else "keras"
    pattern = str(tmp_path / ("{epoch}." + suffix))
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(outputs_of(model, x))
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        pattern, save_weights_only=weights_only
    )
    model.fit(x, labels, epochs=3, verbose=0, callbacks=[note, checkpoint])

    for epoch, outputs in enumerate(seen, 1):
        file = pattern.format(epoch=epoch)
        if weights_only:
            again = adapted("functional", method, flattened_into)
            again.load_weights(file)
        else:
            again = keras.saving.load_model(file)
        assert difference(outputs, outputs_of(again, x)) <= 1e-6
    assert difference(seen[0], seen[2]) > 1e-3


@every_method
def test_early_stopping_restores_the_best_weights(method):
    x = KINDS["functional"].inputs()
    model = adapted("functional", method)
    labels = labels_for(model, x)
    # A rate so high that the loss soon rises.
    compile_for(model, labels, keras.optimizers.SGD(5.0, clipnorm=1.0))
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            (logs["val_loss"], values_of(model.weights))
        )
    )
    stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    model.fit(
        x,
        labels,
        epochs=12,
        validation_data=(x, labels),
        verbose=0,
        callbacks=[note, stop],
    )

    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert best < len(seen) - 1
    assert same_bits(seen[best][1], values_of(model.weights))
    assert not same_bits(seen[-1][1], values_of(model.weights))
