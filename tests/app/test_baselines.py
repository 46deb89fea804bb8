"""What the adapter is measured against."""

import dataclasses

import keras
import numpy as np
import pytest

from app.learn.baselines import bag_of_words, frozen_probe
from app.learn.batches import predict_texts
from app.serve.served import Probe
from app.texts.data import Split, split
from tests.models import set_random

WORDS = ["fine", "grand", "dull", "poor", "odd", "green", "slow", "quick"]


class WordIds:
    """A tokenizer that knows eight words."""

    def encode(self, texts):
        return [[WORDS.index(word) + 1 for word in t.split()] for t in texts]


def small_base():
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    x = keras.layers.Embedding(9, 6)(inputs["token_ids"])
    x = keras.layers.GlobalAveragePooling1D()(x, mask=inputs["padding_mask"])
    base = keras.Model(inputs, x)
    set_random(base.weights)
    return base


def small_corpus(classes):
    """Half the words of a text are its class's own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 400, "int32")
    ids = rng.integers(0, len(WORDS), (400, 6))
    ids[:, :3] = labels[:, None] + classes * rng.integers(0, 2, (400, 3))
    texts = [" ".join(WORDS[i] for i in row) for row in ids]
    return split(Split(texts, labels))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_a_head_on_the_bases_features(classes):
    base, splits = small_base(), small_corpus(classes)
    probe = frozen_probe(base, splits, WordIds())
    assert probe.kernel.shape == (6, classes)
    assert probe.bias.shape == (classes,)
    features = predict_texts(base, splits.test.texts, WordIds())
    logits = features @ probe.kernel + probe.bias
    right = logits.argmax(-1) == splits.test.labels
    assert np.mean(right) == pytest.approx(probe.accuracy)
    assert probe.accuracy > 1 / classes + 0.1


@pytest.mark.parametrize("lacking", [(1,), (1, 2)])
def test_labels_that_the_training_texts_lack_keep_their_columns(lacking):
    """Columns that move up would be read as other labels."""
    base, splits = small_base(), small_corpus(4)
    kept = ~np.isin(splits.train.labels, lacking)
    train = Split(
        [t for t, k in zip(splits.train.texts, kept, strict=True) if k],
        splits.train.labels[kept],
    )
    few = dataclasses.replace(splits, train=train)
    probe = frozen_probe(base, few, WordIds(), classes=5)
    assert probe.kernel.shape == (6, 5) and probe.bias.shape == (5,)
    features = predict_texts(base, splits.test.texts, WordIds())
    shares = Probe(probe.kernel, probe.bias).probabilities(features)
    assert shares[:, [*lacking, 4]].max() == 0
    right = shares.argmax(-1) == splits.test.labels
    assert np.mean(right) == pytest.approx(probe.accuracy)
    # The columns are those labels': it is mostly right about them.
    seen = ~np.isin(splits.test.labels, lacking)
    assert np.mean(right[seen]) > 0.5
    assert frozen_probe(base, few, WordIds()).bias.shape == (4,)


def test_a_bag_of_words_learns_too():
    assert bag_of_words(small_corpus(2)) > 0.6
