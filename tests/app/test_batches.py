"""Batches: every text once, little padding, any order of lengths."""

import keras
import numpy as np
import pytest

from app.learn.batches import Batches, TrainBatches, predict_texts
from app.texts.base import pad


class CountingTokenizer:
    """A text is a number; it becomes that many equal tokens."""

    def encode(self, texts):
        return [[1 + i] * int(text) for i, text in enumerate(texts)]


@pytest.fixture
def texts():
    lengths = np.random.default_rng(0).integers(1, 60, 150)
    return [str(n) for n in lengths]


def rows_of(batches):
    """(first token, length, label) of every row of every batch."""
    found = []
    for i in range(len(batches)):
        inputs, labels = batches[i]
        lengths = inputs["padding_mask"].sum(-1)
        first = inputs["token_ids"][:, 0]
        found += list(zip(first, lengths, labels, strict=True))
    return found


def make(texts, **settings):
    labels = np.arange(len(texts), dtype="int32")
    return TrainBatches(texts, CountingTokenizer(), labels, 8, **settings)


def test_every_text_is_in_an_epoch_once_with_its_label(texts):
    batches = make(texts)
    for _ in range(3):
        expected = [(i + 1, int(n), i) for i, n in enumerate(texts)]
        assert sorted(rows_of(batches)) == expected
        batches.on_epoch_end()


def test_another_epoch_has_another_order(texts):
    batches = make(texts)
    first = rows_of(batches)
    batches.on_epoch_end()
    assert rows_of(batches) != first


def test_the_order_depends_on_the_seed_alone(texts):
    assert rows_of(make(texts)) == rows_of(make(texts))
    assert rows_of(make(texts)) != rows_of(make(texts, seed=1))


def test_batches_hold_less_padding_than_an_unsorted_order(texts):
    batches = make(texts)
    cells = sum(batches[i][0]["token_ids"].size for i in range(len(batches)))
    unsorted = CountingTokenizer().encode(texts)
    plain = sum(
        pad(unsorted[i : i + 8])["token_ids"].size
        for i in range(0, len(texts), 8)
    )
    assert cells < 0.75 * plain


@pytest.mark.parametrize("seed", range(5))
def test_the_first_two_batches_differ_in_length_if_any_do(seed):
    texts = ["5"] * 72 + ["50"] * 8
    batches = make(texts, seed=seed)
    for _ in range(4):
        first, second = (batches[i][0]["token_ids"].shape for i in (0, 1))
        assert first[1] != second[1]
        batches.on_epoch_end()


def test_batches_of_many_lengths_go_through_fit(texts):
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    mean = keras.ops.mean(
        keras.layers.Embedding(200, 2)(inputs["token_ids"]), axis=1
    )
    model = keras.Model(inputs, keras.layers.Dense(len(texts))(mean))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(make(texts), epochs=2, verbose=0)


def test_outputs_come_in_the_order_of_the_texts(texts):
    def model(inputs, training):
        return keras.ops.sum(inputs["padding_mask"], axis=-1, keepdims=True)

    found = predict_texts(model, texts, CountingTokenizer(), 8)
    assert found[:, 0].tolist() == [int(text) for text in texts]


def test_unlabelled_batches_hold_inputs_alone(texts):
    (inputs,) = Batches(texts, CountingTokenizer())[0]
    assert set(inputs) == {"token_ids", "segment_ids", "padding_mask"}


def test_rows_are_padded_to_a_multiple_of_eight():
    inputs = pad([[5, 6, 7], [8] * 9])
    assert inputs["token_ids"].shape == (2, 16)
    assert inputs["token_ids"][0, :4].tolist() == [5, 6, 7, 0]
    assert inputs["padding_mask"].sum(-1).tolist() == [3, 9]
    assert not inputs["segment_ids"].any()
    assert {array.dtype for array in inputs.values()} == {np.dtype("int32")}


def test_rows_are_padded_to_the_length_asked_for():
    assert pad([[5, 6, 7]], 20)["token_ids"].shape == (1, 20)
    with pytest.raises(ValueError, match="length=2"):
        pad([[5, 6, 7]], 2)
