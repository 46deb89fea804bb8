"""A bank over a task with its preprocessor: texts in, a row its own adapter."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from tests.banks import (
    assert_rows,
    far_apart,
    few_tasks,
    loaded,
    lora,
    make_task,
    off,
    rows,
    sequential,
    served,
)
from tests.marks import pairs
from tests.models import features, set_random
from tests.presets import TASKS, TEXTS, read_preset, write_preset

NAMES = ["a", None, "b", "a"]


def inputs_of(task, texts=TEXTS):
    x = task.preprocess_samples(texts)
    x, *_ = keras.utils.unpack_x_y_sample_weight(x)
    return {k: np.asarray(keras.ops.convert_to_numpy(v)) for k, v in x.items()}


@pytest.mark.parametrize("name", pairs(["TextClassifier"], TASKS))
def test_each_text_is_answered_by_its_own_adapter(name, tmp_path):
    folder = write_preset(name, tmp_path / "preset")
    base = read_preset(name, folder)
    plain = base.predict(TEXTS, verbose=0)
    tasks = {
        called: make_task(
            base, tmp_path / called, lora(rank), inputs_of(base), seed=rank
        )
        for called, rank in (("a", 2), ("b", 3))
    }
    with served(base) as bank:
        loaded(bank, tasks)
        got = bank.predict(TEXTS, adapter=NAMES)
        assert_rows(got, NAMES, tasks, plain)
        assert off(bank.predict(TEXTS), plain) < 1e-5
        assert off(bank.predict(TEXTS, adapter="b"), tasks["b"].outputs) < 1e-5
        assert far_apart(tasks["a"].outputs, tasks["b"].outputs)
        assert (
            off(bank.predict(TEXTS, "a", batch_size=3), tasks["a"].outputs)
            < 1e-5
        )


@pytest.fixture(scope="module")
def classifier():
    task = TASKS["TextClassifier"]()
    bank = keras_lora.AdapterBank(task, rank=2)
    yield bank, task
    bank.detach()


@pytest.mark.parametrize(
    "kind", [np.array, lambda t: np.array(t, object), list]
)
def test_texts_come_in_lists_and_arrays(classifier, kind):
    bank, task = classifier
    got = bank.predict(kind(TEXTS))
    assert off(got, task.predict(TEXTS, verbose=0)) < 1e-5


def test_texts_come_in_tensors(classifier):
    tf = pytest.importorskip("tensorflow")
    bank, task = classifier
    got = bank.predict(tf.constant(TEXTS))
    assert off(got, task.predict(TEXTS, verbose=0)) < 1e-5


@pytest.mark.slow
def test_pairs_of_texts_are_what_the_preprocessor_makes_of_them(classifier):
    bank, task = classifier
    pairs = (TEXTS, TEXTS[::-1])
    got = bank.predict(pairs)
    assert off(got, task.predict(pairs, verbose=0)) < 1e-5
    assert far_apart(got, bank.predict(TEXTS))


@pytest.mark.parametrize("nothing", [[], np.array([], "U1")])
def test_no_texts_give_no_rows(classifier, nothing):
    bank, _ = classifier
    assert bank.predict(nothing).shape == (0, 2)
    assert bank.predict(nothing, adapter=[]) == []


@pytest.mark.parametrize(
    ("x", "word"),
    [
        ({"a text"}, "'set' is no array"),
        (None, "'NoneType' is no array"),
        (object(), "'object' is no array"),
        ("a text", "give a list of texts"),
        ([1, 2], "preprocessor does not take these inputs"),
        ((TEXTS, TEXTS[:2]), "as many rows each"),
    ],
)
def test_what_is_neither_texts_nor_arrays_is_refused(classifier, x, word):
    bank, _ = classifier
    with pytest.raises(ValueError, match=word):
        bank.predict(x)


@pytest.mark.parametrize(
    ("x", "word"),
    [
        ({1.0}, "'set' is no array"),
        (None, "'NoneType' is no array"),
        (object(), "'object' is no array"),
        (["a text"], "base with a `preprocessor`"),
        (np.array(["a text"]), "base with a `preprocessor`"),
    ],
)
def test_a_base_without_preprocessor_takes_arrays_alone(x, word):
    with served(sequential()) as bank, pytest.raises(ValueError, match=word):
        bank.predict(x)


@pytest.mark.slow
def test_a_preprocessor_that_is_taken_off_is_not_run(tmp_path):
    base = TASKS["TextClassifier"]()
    plain, x = base.predict(TEXTS, verbose=0), inputs_of(base)
    with served(base) as bank:
        assert off(bank.predict(TEXTS), plain) < 1e-5
        base.preprocessor = None
        assert off(bank.predict(x), plain) < 1e-5
        with pytest.raises(ValueError, match="base with a `preprocessor`"):
            bank.predict(TEXTS)


def test_any_callable_may_be_the_preprocessor(tmp_path):
    base = sequential()
    base.preprocessor = lambda texts: np.stack(
        [rows(1, seed=len(text))[0] for text in texts]
    )
    x = base.preprocessor(TEXTS)
    with served(base) as bank:
        loaded(bank, few_tasks())
        assert off(bank.predict(TEXTS, "t0"), bank_of_arrays(x, "t0")) < 1e-5
        base.preprocessor = lambda texts: x[:1]
        with pytest.raises(ValueError, match="made 1 rows of 4"):
            bank.predict(TEXTS)


def bank_of_arrays(x, name):
    with served(sequential()) as bank:
        return loaded(bank, few_tasks()).predict(x, name)


def test_a_bank_with_a_rank_serves_a_base_of_convolutions(tmp_path):
    def convolutions():
        base = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                layers.Conv2D(4, 3, activation="tanh"),
                layers.GlobalAveragePooling2D(),
            ]
        )
        set_random(base.weights, 0)
        return base

    base, x = convolutions(), features(6, 6, 3)
    task = make_task(base, tmp_path / "a", lora(2, targets=["conv2d"]), x)
    with served(base, rank=4) as bank:
        bank.load("a", task.path)
        assert off(bank.predict(x, "a"), task.outputs) < 1e-5
    with pytest.raises(ValueError, match="no Dense or EinsumDense"):
        keras_lora.AdapterBank(base, targets="all-linear")
