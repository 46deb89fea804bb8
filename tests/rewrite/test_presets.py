"""A KerasHub task from its preset, with its preprocessor, on the way through
`inject`, `fit` on texts, files and presets."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import LoRAConfig
from tests.banks import call, far_apart, off
from tests.elsewhere import predictions_of_preset
from tests.helpers import fill, state
from tests.marks import pairs
from tests.models import hub
from tests.presets import (
    LABELS,
    LENGTH,
    TASKS,
    TEXTS,
    read_preset,
    write_preset,
)

NAMES = tuple(TASKS)


def answers(task):
    return task.predict(TEXTS, verbose=0)


def fit(task):
    """Trains on texts, with the task's own loss."""
    labels = [LABELS] if "Classifier" in type(task).__name__ else []
    task.compile(optimizer=keras.optimizers.Adam(0.05))
    task.fit(TEXTS, *labels, epochs=3, verbose=0)


@pytest.mark.parametrize("name", pairs(["TextClassifier"], NAMES))
def test_a_task_from_its_preset_trains_on_texts_and_answers_elsewhere(
    name, tmp_path, elsewhere
):
    folder = write_preset(name, tmp_path / "preset")
    plain = answers(read_preset(name, folder))
    task = read_preset(name, folder)  # its preprocessor is not built yet
    assert keras_lora.find_targets(task)
    keras_lora.inject(task, LoRAConfig(2))
    fit(task)
    trained = answers(task)
    assert np.abs(trained - plain).max() > 1e-3
    path = str(tmp_path / "task.safetensors")
    keras_lora.save_adapter(task, path)
    args = (name, folder, path, TEXTS)
    found = elsewhere(predictions_of_preset, *args)
    np.testing.assert_allclose(found, trained, atol=1e-6)
    keras_lora.eject(task)
    np.testing.assert_array_equal(answers(task), plain)


@pytest.mark.parametrize("name", pairs(["TextClassifier"], NAMES))
def test_beside_an_adapted_task_a_preset_is_read_as_the_plain_one(
    name, tmp_path
):
    folder = write_preset(name, tmp_path / "preset")
    task = read_preset(name, folder)
    plain = answers(task)
    kind = type(task)
    fill(keras_lora.inject(task, LoRAConfig(2)))
    task.save(str(tmp_path / "task.keras"))
    adapted = keras.saving.load_model(str(tmp_path / "task.keras"))
    assert far_apart(answers(adapted), plain)
    # KerasHub takes any of these, in no order of its own.
    known = set(keras.saving.get_custom_objects().values())
    fitting = {c for c in known if isinstance(c, type) and issubclass(c, kind)}
    assert fitting == {kind}
    again = read_preset(name, folder)
    assert type(again) is kind
    np.testing.assert_array_equal(answers(again), plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_preprocessor_is_no_part_of_the_base(name, tmp_path):
    folder = write_preset(name, tmp_path / "preset")
    task = read_preset(name, folder)
    without = read_preset(name, folder, preprocessor=None)
    used = read_preset(name, folder)
    answers(used)  # which builds what the preprocessor is made of
    x, *_ = keras.utils.unpack_x_y_sample_weight(task.preprocess_samples(TEXTS))
    for first, second in ((task, without), (without, used)):
        kinds = type(first.preprocessor), type(second.preprocessor)
        assert keras_lora.find_targets(first) == keras_lora.find_targets(second)
        plain = call(first, x)
        fill(keras_lora.inject(first, LoRAConfig(2)))
        path = tmp_path / "task.safetensors"
        keras_lora.save_adapter(first, path)
        keras_lora.load_adapter(second, path)
        assert far_apart(call(first, x), plain)
        assert off(call(first, x), call(second, x)) == 0
        assert kinds == (type(first.preprocessor), type(second.preprocessor))
        keras_lora.eject(first)
        keras_lora.eject(second)


def test_a_layer_that_has_its_weights_is_no_obstacle_though_never_built(
    tmp_path,
):
    """As the rotary embedding of a block that uses none."""

    class Rotary(layers.Layer):
        def __init__(self):
            super().__init__(name="rotary")
            self.speed = self.add_weight(shape=(3,), name="speed")

        def build(self, shape):
            self.late = self.add_weight(shape=(2,), name="late")

        def call(self, x):
            return x + keras.ops.sum(self.late)

    class Quiet(layers.Layer):
        def call(self, x):
            return x

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = layers.Dense(3)
            self.rotary, self.quiet = Rotary(), Quiet()

        def call(self, x):
            return self.used(x)

    model = Model()
    x = np.ones((2, 4), "float32")
    model(x)
    assert not model.rotary.built and not model.quiet.built
    before = state(model)
    fill(keras_lora.inject(model, LoRAConfig(2)))
    keras_lora.save_adapter(model, tmp_path / "a.safetensors")
    keras_lora.eject(model)
    assert state(model)["classes"] == before["classes"]
    with_bank = keras_lora.AdapterBank(model)
    with_bank.load("a", tmp_path / "a.safetensors")
    with_bank.detach()
    keras_lora.load_adapter(model, tmp_path / "a.safetensors")
    model.rotary.build((2, 3))  # what it makes now is frozen as well
    names = {v.name for v in model.trainable_variables}
    assert names == {"lora_a", "lora_b"}


def test_all_doors_refuse_a_part_that_may_yet_make_weights(tmp_path):
    class Model(keras.Model):
        def __init__(self, *more):
            super().__init__()
            self.used = layers.Dense(3, name="used")
            self.more = list(more)

        def call(self, x):
            return self.used(x)

    def model_of(*more):
        keras.utils.set_random_seed(0)
        model = Model(*more)
        model(np.ones((2, 4), "float32"))
        return model

    path = tmp_path / "a.safetensors"
    whole = keras_lora.inject(model_of(), LoRAConfig(2))
    keras_lora.save_adapter(whole, path)
    model = model_of(layers.Dense(2, name="late"))
    for act in (
        keras_lora.find_targets,
        lambda m: keras_lora.inject(m, LoRAConfig(2)),
        keras_lora.AdapterBank,
        lambda m: keras_lora.load_adapter(m, path),
    ):
        before = state(model)
        with pytest.raises(ValueError, match="late: not built"):
            act(model)
        assert state(model) == before


def adapted_task(where):
    task = TASKS["TextClassifier"]()
    fill(keras_lora.inject(where(task), LoRAConfig(2)))
    return task


@pytest.mark.parametrize(
    "where", [lambda t: t, lambda t: t.backbone], ids=["task", "backbone"]
)
def test_a_preset_that_would_lose_the_adapter_is_not_written(where, tmp_path):
    task = adapted_task(where)
    for model in (task, task.backbone):
        before = state(task)
        with pytest.raises(ValueError, match="save_to_preset") as error:
            model.save_to_preset(str(tmp_path / "preset"))
        for word in ("save_adapter", "merge", "eject", model.name):
            assert word in str(error.value)
        assert state(task) == before
        assert not (tmp_path / "preset").exists()
    with pytest.raises(ValueError, match="export_to_transformers"):
        task.backbone.export_to_transformers(str(tmp_path / "preset"))


def test_a_preset_written_before_is_left_as_it_was(tmp_path):
    folder = write_preset("TextClassifier", tmp_path / "preset")
    task = read_preset("TextClassifier", folder)
    plain = answers(task)
    fill(keras_lora.inject(task.backbone, LoRAConfig(2)))
    with pytest.raises(ValueError, match="nothing was written"):
        task.save_to_preset(folder)
    again = answers(read_preset("TextClassifier", folder))
    np.testing.assert_array_equal(again, plain)


@pytest.mark.parametrize("act", [keras_lora.merge, keras_lora.eject])
def test_after_merge_and_eject_a_preset_is_written(act, tmp_path):
    task = TASKS["TextClassifier"]()
    plain = answers(task)
    fill(keras_lora.inject(task, LoRAConfig(2)))
    act(task)
    expected = answers(task)
    moved = np.abs(expected - plain).max()
    assert (moved > 1e-3) == (act is keras_lora.merge)
    task.save_to_preset(str(tmp_path / "preset"))
    again = read_preset("TextClassifier", str(tmp_path / "preset"))
    np.testing.assert_allclose(answers(again), expected, atol=1e-6)


def test_a_served_task_writes_the_preset_of_its_base(tmp_path):
    task = TASKS["TextClassifier"]()
    plain = answers(task)
    bank = keras_lora.AdapterBank(task, rank=2)
    task.save_to_preset(str(tmp_path / "preset"))
    bank.detach()
    again = read_preset("TextClassifier", str(tmp_path / "preset"))
    np.testing.assert_allclose(answers(again), plain, atol=1e-6)


def test_an_adapted_task_is_saved_with_its_preprocessor(tmp_path):
    task = adapted_task(lambda t: t)
    expected = answers(task)
    task.save(tmp_path / "task.keras")
    again = keras.saving.load_model(tmp_path / "task.keras")
    np.testing.assert_allclose(answers(again), expected, atol=1e-6)


def test_a_mixture_says_that_its_experts_are_left_out():
    models = hub().models
    backbone = models.MixtralBackbone(
        vocabulary_size=11,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=32,
        num_experts=4,
        top_k=2,
    )
    with pytest.warns(UserWarning, match=r"experts \(MixtralMoeExperts\)"):
        found = keras_lora.find_targets(backbone)
    assert found and not any(path.endswith("experts") for path in found)
    with pytest.warns(UserWarning, match="LoRA can go on none of them"):
        keras_lora.inject(backbone, LoRAConfig(2))
    assert "experts (MixtralMoeExperts)" in str(keras_lora.summary(backbone))


def test_a_task_that_was_compiled_says_why_it_asks_for_compile():
    task = TASKS["TextClassifier"]()  # compiled by its constructor
    keras_lora.inject(task, LoRAConfig(2))
    with pytest.raises(ValueError, match="compile.*`inject`"):
        task.fit(TEXTS, LABELS, verbose=0)
    fit(task)
    plain = keras.Sequential([keras.Input((LENGTH,)), layers.Dense(2)])
    keras_lora.inject(plain, LoRAConfig(2))
    with pytest.raises(ValueError, match="compile") as error:
        plain.fit(np.ones((2, LENGTH)), np.ones((2, 2)), verbose=0)
    assert "inject" not in str(error.value)  # it never was
