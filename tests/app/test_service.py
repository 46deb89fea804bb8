"""The shared service: its answers, its probes, and what is missing."""

import shutil

import numpy as np
import pytest

import keras_lora
from app.learn.shipped import PROBES
from app.serve.service import Service
from tests.app.tiny import TinyTokenizer, tiny_base
from tests.app.tiny import tiny_source as source_of

TEXT = "a slow start and then a wonderful film"


@pytest.fixture
def service(tiny_service):
    return tiny_service


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder


def alone(served, text):
    """Probabilities by the adapter on a base of its own."""
    base = tiny_base()
    keras_lora.load_adapter(base, served.file, head=False)
    features = base(TinyTokenizer()([text]))
    logits = np.asarray(served.info.build_head()(features))[0]
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def test_every_task_answers_as_its_adapter_does_alone(service):
    answers = []
    for served in service.shipped.tasks:
        answer = service.answer(served, TEXT)
        np.testing.assert_allclose(
            answer.probabilities, alone(served, TEXT), atol=1e-5
        )
        assert len(answer.probabilities) == len(served.labels)
        answers.append(answer.probabilities[0])
    assert len(set(np.round(answers, 4))) == len(answers)


def test_an_answer_says_how_long_it_took_and_what_was_read(service):
    served = service.shipped.tasks[0]
    service.answer(served, TEXT)
    answer = service.answer(served, TEXT)
    assert 0 < answer.switch_ms < answer.call_ms
    assert not answer.brought_in
    assert answer.tokens == 9


def test_the_frozen_answer_is_the_probe_on_the_bare_base(service):
    served = service.shipped.tasks[0]
    features = np.asarray(tiny_base()(TinyTokenizer()([TEXT])))
    logits = features @ served.probe.kernel + served.probe.bias
    powers = np.exp(logits - logits.max())
    found = service.answer_frozen(served, TEXT)
    np.testing.assert_allclose(found, (powers / powers.sum())[0], atol=1e-5)


def test_a_text_of_any_length_is_read_up_to_the_limit(service):
    answer = service.answer(service.shipped.tasks[0], "word " * 900)
    assert answer.tokens == 128
    assert np.isfinite(answer.probabilities).all()


def test_rows_of_a_mixed_batch_are_answered_as_alone(service):
    tasks = service.shipped.tasks
    rows = [(f"{TEXT} {i}", tasks[i % len(tasks)]) for i in range(9)]
    mixed = service.answer_mixed(rows)
    assert mixed.difference < 1e-4
    assert mixed.calls == len(tasks)
    for (text, served), together, apart in zip(
        rows, mixed.together, mixed.apart, strict=True
    ):
        expected = alone(served, text)
        np.testing.assert_allclose(together, expected, atol=1e-4)
        np.testing.assert_allclose(apart, expected, atol=1e-4)


def test_missing_files_and_bad_ones_are_told_and_the_rest_works(
    folder, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tweet-sentiment.safetensors").unlink()
    (copy / "text-source.safetensors").write_bytes(b"not an adapter")
    (copy / PROBES / "movie-sentiment.safetensors").unlink()
    (copy / "results.json").write_text("{")
    # A head of two outputs where the task has two labels, and of four.
    shutil.copy(
        folder / "text-source.safetensors",
        copy / "product-sentiment.safetensors",
    )
    service = Service.start(source_of(copy))
    problems = service.shipped.problems
    assert set(problems) == {
        "tweet-sentiment",
        "text-source",
        "product-sentiment",
    }
    assert "python -m app.ship tweet-sentiment" in problems["tweet-sentiment"]
    assert "2 labels" in problems["product-sentiment"]
    served = service.shipped.tasks[0]
    assert served.probe is None
    assert service.answer_frozen(served, TEXT) is None
    assert len(service.bank.names) == len(service.shipped.tasks)


def test_adapters_of_another_base_are_told(tmp_path, folder):
    def other(progress=None):
        base = tiny_base()
        base.weights[0].assign_add(0.1 * np.ones(base.weights[0].shape))
        return base

    source = source_of(folder)
    service = Service.start(type(source)(other, source.make_tokenizer, folder))
    assert not service.shipped.tasks
    assert all("base" in text for text in service.shipped.problems.values())
