"""The real base: right features, whole files, one answer everywhere."""

import json
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_lora
from app import predict
from app.learn import training
from app.serve.served import read_shipped
from app.ship import FOLDER
from app.texts import base as module
from app.texts import data, packages, tasks

pytestmark = pytest.mark.real_base

TEXTS = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply today.",
]


@pytest.fixture(scope="module")
def pretrained():
    return module.load_base()


@pytest.fixture(scope="module")
def tokenizer():
    return module.Tokenizer()


def test_features_tell_what_texts_are_about(pretrained, tokenizer):
    features = np.array(pretrained(tokenizer(TEXTS)))
    assert features.shape == (3, 384)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    likeness = features @ features.T
    # What the published torch model gives.
    assert likeness[0, 1] == pytest.approx(0.6888, abs=1e-4)
    assert likeness[0, 2] == pytest.approx(0.0037, abs=1e-4)


def test_padding_does_not_change_the_features(pretrained, tokenizer):
    short = pretrained(tokenizer(TEXTS))
    wide = pretrained(tokenizer(TEXTS, length=40))
    np.testing.assert_allclose(short, wide, atol=1e-5)


def test_the_base_holds_no_layer_that_the_features_do_not_use(pretrained):
    assert "pooled_dense" not in {layer.name for layer in pretrained.layers}


def test_a_keras_file_keeps_the_exact_gelu(pretrained, tokenizer, tmp_path):
    pretrained.save(tmp_path / "base.keras")
    loaded = keras.models.load_model(tmp_path / "base.keras")
    inputs = tokenizer(TEXTS)
    np.testing.assert_array_equal(loaded(inputs), pretrained(inputs))


def test_weights_that_do_not_fit_are_all_named(pretrained):
    tensors = {
        source: np.zeros(variable.shape, "float32")
        for variable in pretrained.weights
        for source in [module._sources()[variable.path]]
    }
    del tensors["embeddings.LayerNorm.bias"]
    tensors["extra"] = np.zeros(1)
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(7)
    with pytest.raises(ValueError) as caught:
        module.port_weights(pretrained, tensors)
    for name in ("embeddings.LayerNorm.bias", "extra", "(7,)"):
        assert name in str(caught.value)
    assert np.any(pretrained.get_layer("embeddings_layer_norm").beta)


def test_texts_are_cut_at_the_longest_length(tokenizer):
    inputs = tokenizer(["word " * 500, "word"])
    assert inputs["token_ids"].shape == (2, module.MAX_TOKENS)
    assert inputs["padding_mask"].sum(-1).tolist() == [128, 3]


def test_tokens_are_the_published_ones(tokenizer):
    assert tokenizer.encode(["A fine FILM."]) == [
        [101, 1037, 2986, 2143, 1012, 102]
    ]


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_every_task_loads_whole(task):
    splits = task.load()
    parts = (splits.train, splits.validation, splits.test)
    texts = [" ".join(t.lower().split()) for p in parts for t in p.texts]
    assert len(texts) == len(set(texts)) > 2000
    for part in parts:
        assert set(part.labels.tolist()) == set(range(len(task.labels)))
    assert not set(task.examples) & set(texts)


def test_rated_texts_are_those_that_were_published():
    splits = tasks.get_task("movie-sentiment").load()
    sizes = [len(splits.train), len(splits.validation), len(splits.test)]
    assert sizes == [8054, 1008, 1008]


def test_a_trained_file_answers_alike_in_a_new_process(tmp_path):
    task = tasks.get_task("tweet-sentiment")
    train = task.load().train
    few = data.Split(train.texts[:300], train.labels[:300])
    small = replace(task, read=lambda folder: few)
    path = tmp_path / "tweets.safetensors"
    result = training.train_task(
        small, training.Settings(epochs=1, learning_rate=3e-3), output=path
    )
    assert result.path == path and result.bytes == path.stat().st_size
    assert set(result.baselines) == {
        "TF-IDF + logistic regression",
        "frozen features + logistic regression",
    }
    assert result.trainable == keras_lora.inspect_adapter(path).parameters
    assert 0 < result.share < 0.02
    model = predict.load_adapted(path, task)
    here = predict.probabilities(model, module.Tokenizer(), TEXTS)
    command = [sys.executable, "-m", "app.predict", task.name, *TEXTS]
    command += ["--adapter", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = [
        list(json.loads(line)["probabilities"].values())
        for line in done.stdout.splitlines()
    ]
    np.testing.assert_allclose(here, there, atol=1e-5)
    assert np.ptp(here) > 0.01


def test_a_file_of_another_task_is_refused(pretrained, tmp_path):
    base = module.load_base()
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=1, targets=["query"]))
    head = keras.layers.Dense(3)
    model = keras.Model(base.input, head(base(base.input)))
    keras_lora.save_adapter(model, tmp_path / "three.safetensors")
    with pytest.raises(ValueError, match="3 classes"):
        predict.load_adapted(
            tmp_path / "three.safetensors", tasks.get_task("movie-sentiment")
        )


def test_every_pinned_hash_is_a_sha256():
    for package in (
        packages.MINILM,
        packages.RATED_TEXTS,
        packages.BBC_NEWS,
    ):
        for value in (package.sha256, *package.checks.values()):
            assert len(value) == 64 and int(value, 16)


RIGHT = {
    "movie-sentiment": "positive",
    "tweet-sentiment": "positive",
    "product-sentiment": "positive",
    "editorial-sentiment": "negative",
    "text-source": "tweet",
}


def test_the_first_example_is_one_that_needs_the_adapter(pretrained, tokenizer):
    bank = keras_lora.AdapterBank(pretrained)
    shipped = {served.name: served for served in read_shipped(FOLDER).tasks}
    for name, label in RIGHT.items():
        served = shipped[name]
        bank.load(name, served.file)
        inputs = tokenizer([served.examples[0]])
        adapted = bank.predict(inputs, adapter=name)
        frozen = served.probe.probabilities(bank.predict(inputs, adapter=None))
        right = served.labels.index(label)
        assert adapted.argmax() == right != frozen.argmax(), name
    bank.detach()
