"""Training for visitors: one at a time, stoppable, beside the bank."""

import threading

import numpy as np
import pytest

import keras_lora
from app.learn import baselines
from app.learn.batches import predict_texts
from app.learn.training import BAG_OF_WORDS, FROZEN_FEATURES, Settings
from app.serve import trainer as trainers
from app.serve.csv_upload import read_labels, split_upload
from app.serve.guests import Shelf
from app.serve.job import Job
from app.serve.service import Source
from app.serve.trainer import MOST_HELD_OUT, Busy, Trainer, smaller
from app.texts.data import Split, split
from tests.app.tiny import TinyTokenizer, csv_bytes, tiny_base, tiny_source
from tests.marks import pairs

PATIENCE = 300
"""Seconds after which a run is taken for hung."""


def job(rows=120, epochs=2, labels=("neg", "pos"), **settings):
    corpus, labels = read_labels(csv_bytes(rows, labels))
    splits = split_upload(corpus, labels)
    settings = {"batch_size": 8, "learning_rate": 1e-2, **settings}
    return Job("mine", labels, splits, Settings(epochs=epochs, **settings))


class Gate:
    """A base that is loaded only when the test says so."""

    def __init__(self):
        self.open = threading.Event()

    def load(self, progress):
        assert self.open.wait(PATIENCE)
        return tiny_base()


def gated():
    gate = Gate()
    source = Source(gate.load, lambda progress: TinyTokenizer(), None)
    return gate, Trainer(source)


@pytest.fixture
def trainer(tiny_folder):
    return Trainer(tiny_source(tiny_folder))


def finished(run):
    assert run.done.wait(PATIENCE)
    assert run.error is None, run.error
    return run.outcome


def test_a_run_learns_and_tells_what_it_came_to(trainer, tiny_service):
    run = trainer.start(job(epochs=3))
    outcome = finished(run)
    assert outcome.accuracy == 1.0
    assert set(outcome.baselines) == {BAG_OF_WORDS, FROZEN_FEATURES}
    assert outcome.confusion.sum() == len(run.job.splits.test)
    assert not outcome.mistakes and not outcome.stopped
    assert run.step == run.steps == 3 * -(-len(run.job.splits.train) // 8)
    parts = [point.part for point in run.points]
    assert parts.count("training") == run.steps
    assert parts.count("validation") == 3
    assert run.points[0].loss > run.points[-1].loss
    assert not trainer.busy and trainer.current is None
    # Its file goes into the bank, and says what was learned.
    shelf = Shelf(tiny_service)
    served = shelf.add(outcome.file, "mine", run.job.labels)
    for text, label in (("dull weak poor", 0), ("bright strong fine", 1)):
        answer = tiny_service.answer(served, f"{text} number 5")
        assert answer.probabilities.argmax() == label
    shelf.close()


def test_bottlenecks_train_too(trainer, tmp_path):
    run = trainer.start(job(method="bottleneck", bottleneck=6, epochs=1))
    file = tmp_path / "b.safetensors"
    file.write_bytes(finished(run).file)
    assert keras_lora.inspect_adapter(file).methods == ("bottleneck",)


def test_the_second_one_is_told_that_someone_else_trains():
    gate, trainer = gated()
    run = trainer.start(job())
    with pytest.raises(Busy, match="Someone else is training"):
        trainer.start(job())
    assert trainer.current is run
    run.stop()
    gate.open.set()
    assert run.done.wait(PATIENCE)
    assert run.outcome is None
    assert "nothing was trained" in run.error
    assert not trainer.busy


def test_stopping_keeps_what_was_trained(trainer):
    run = trainer.start(job(rows=400, epochs=50))
    while run.step < 3 and not run.done.is_set():
        run.done.wait(0.05)
    run.stop()
    outcome = finished(run)
    assert outcome.stopped
    assert 3 <= run.step < run.steps
    assert outcome.file and np.isfinite(outcome.accuracy)


@pytest.fixture
def impatient(monkeypatch):
    """A visitor counts as gone at once."""
    monkeypatch.setattr(trainers, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(trainers, "LOOK_SECONDS", 0.01)


def gone(run, trainer):
    """The run has ended with nothing, and the next visitor may train."""
    assert run.done.wait(PATIENCE)
    assert run.outcome is None and "page was closed" in run.error
    assert not trainer.busy
    finished(trainer.start(job(epochs=1)))


@pytest.mark.extra
def test_a_run_ends_when_its_visitor_has_left(trainer, impatient):
    page = threading.Event()
    page.set()
    run = trainer.start(job(rows=400, epochs=500), page.is_set)
    while run.step < 3 and not run.done.is_set():
        run.done.wait(0.05)
    page.clear()
    gone(run, trainer)
    assert run.step < run.steps


@pytest.mark.extra
def test_a_run_whose_visitor_left_before_it_began_ends(impatient):
    gate, trainer = gated()
    run = trainer.start(job(), lambda: False)
    assert run.left.wait(PATIENCE)
    gate.open.set()
    gone(run, trainer)


@pytest.mark.parametrize("phase", pairs(["Measuring"], ["Testing"]))
def test_a_run_ends_in_every_phase(trainer, monkeypatch, phase):
    def leave(model, texts, tokenizer, each=lambda: None):
        if run.phase.startswith(phase):
            run.leave()
        return predict_texts(model, texts, tokenizer, each=each)

    for module in (baselines, trainers):
        monkeypatch.setattr(module, "predict_texts", leave)
    gate, trainer = gated()
    run = trainer.start(job(epochs=1))
    gate.open.set()
    gone(run, trainer)
    assert bool(run.step) == (phase == "Testing")


@pytest.mark.extra
def test_a_visitor_who_comes_back_in_time_finds_the_run(trainer, monkeypatch):
    monkeypatch.setattr(trainers, "LOOK_SECONDS", 0.01)
    away = iter([False] * 5)
    run = trainer.start(job(epochs=1), lambda: next(away, True))
    finished(run)
    assert next(away, None) is None


def test_a_run_that_fails_says_why_and_lets_the_next_one_in(tiny_folder):
    def broken(progress):
        raise ValueError("no base today")

    source = tiny_source(tiny_folder)
    trainer = Trainer(Source(broken, source.make_tokenizer, tiny_folder))
    for _ in range(2):
        run = trainer.start(job())
        assert run.done.wait(PATIENCE)
        assert run.error == "no base today" and run.outcome is None


@pytest.mark.extra
def test_the_bank_answers_the_same_while_someone_trains(trainer, tiny_service):
    tasks = tiny_service.shipped.tasks
    expected = [
        tiny_service.answer(t, "some text").probabilities for t in tasks
    ]
    run = trainer.start(job(rows=400, epochs=2))
    rounds = 0
    while not run.done.is_set() or not rounds:
        for served, probabilities in zip(tasks, expected, strict=True):
            found = tiny_service.answer(served, "some text").probabilities
            np.testing.assert_allclose(found, probabilities, atol=1e-6)
        rounds += 1
    finished(run)


def test_fewer_texts_are_taken_from_all_parts():
    corpus, labels = read_labels(csv_bytes(4900))
    splits = smaller(split_upload(corpus, labels), 100)
    assert len(splits.train) == 100
    assert len(splits.test) == MOST_HELD_OUT
    assert len(set(splits.test.texts)) == MOST_HELD_OUT
    again = smaller(split_upload(corpus, labels), 100)
    assert again.train.texts == splits.train.texts


@pytest.mark.parametrize("seed", range(4))
def test_every_class_stays_in_every_part_in_proportion(seed):
    """Without regard to classes the last one was lost two times in three."""
    labels = np.repeat(np.arange(3), (3_000, 1_992, 10)).astype("int32")
    texts = [f"text {row}" for row in range(len(labels))]
    whole = split(Split(texts, labels))
    fewer = smaller(whole, 300, seed)
    parts = (fewer.train, fewer.validation, fewer.test)
    for part, count in zip(parts, (300, 200, 400), strict=True):
        assert len(part) == len(set(part.texts)) == count
        found = np.bincount(part.labels, minlength=3)
        assert found[2] in (1, 2)
        assert abs(found[0] / count - 0.6) < 0.01
        assert [labels[texts.index(t)] for t in part.texts] == [*part.labels]


def test_a_probe_trained_on_few_texts_has_a_column_for_every_class(trainer):
    labels = ("fine", "good", "rare")
    counts = (200, 200, 8)
    words = ("dull weak", "bright strong", "odd green")
    texts = [
        f"{word} number {row}"
        for word, count in zip(words, counts, strict=True)
        for row in range(count)
    ]
    corpus = Split(texts, np.repeat(np.arange(3), counts).astype("int32"))
    splits = smaller(split_upload(corpus, labels), 20)
    settings = Settings(epochs=1, batch_size=8, learning_rate=1e-2)
    outcome = finished(trainer.start(Job("mine", labels, splits, settings)))
    assert outcome.probe.kernel.shape[1] == len(outcome.probe.bias) == 3
    assert outcome.probe.bias.min() > baselines.NEVER
