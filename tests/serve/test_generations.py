"""The engine over a language model."""

import contextlib
import threading

import pytest

from keras_lora.serve import NotServing, QueueFull, UnknownAdapter
from tests.serve.served import engine_on
from tests.speaking import TEXTS, dialects, speaker

pytest.importorskip("keras_hub")

NAMES = ["a", None, "b", "a"]


@pytest.fixture(scope="module")
def batches():
    """What the engine told of its batches."""
    return []


@pytest.fixture(scope="module")
def engine(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("dialects")
    dialects(folder, "ab")
    with engine_on(
        folder,
        speaker(),
        poll=0.001,
        max_streams=2,
        observe=lambda *batch: batches.append(batch),
    ) as engine:
        engine.folder.load("a")
        engine.folder.load("b")
        yield engine


@contextlib.contextmanager
def held(engine, monkeypatch):
    """Keeps a first completion, and what comes after it, until the end."""
    entered, free = threading.Event(), threading.Event()
    real = engine.bank.complete

    def complete(*args, **kwargs):
        entered.set()
        assert free.wait(60)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine.bank, "complete", complete)
        [first] = engine.generate(["x"])
        assert entered.wait(60)
        try:
            yield first
        finally:
            free.set()
            first.result(60)


def test_prompts_of_many_callers_are_completed_together(
    engine, batches, monkeypatch
):
    assert engine.speaks
    want = engine.bank.complete(TEXTS, NAMES, max_tokens=9)
    assert len({completion.text for completion in want}) == 4
    told = len(batches)
    with held(engine, monkeypatch):
        futures = [
            future
            for text, name in zip(TEXTS, NAMES, strict=True)
            for future in engine.generate([text], name, 9)
        ]
    assert [future.result(60) for future in futures] == want
    assert [rows for _, rows, _ in batches[told:]] == [1, 4]


def test_a_prompt_without_room_fails_alone(engine):
    futures = engine.generate(["x", "y" * 90, "z"], "a", 5)
    with pytest.raises(ValueError, match="no room"):
        futures.pop(1).result(60)
    got = [future.result(60) for future in futures]
    assert got == engine.bank.complete(["x", "z"], "a", 5)


def test_predictions_do_not_wait_for_a_generation(engine, monkeypatch):
    with held(engine, monkeypatch) as slow:
        [quick] = engine.predict(["x"], "a")
        assert quick.result(60).outputs.ndim == 2
        assert not slow.done()
    assert slow.result(60).tokens


@pytest.mark.parametrize("others", [[], ["b"]])
def test_an_adapter_that_goes_before_it_generates(engine, monkeypatch, others):
    with held(engine, monkeypatch):
        [going] = engine.generate(["x"], "a", 5)
        staying = [engine.generate(["x"], name, 5)[0] for name in others]
        engine.folder.unload("a")
    with pytest.raises(UnknownAdapter, match="'a'"):
        going.result(60)
    got = [future.result(60) for future in staying]
    assert got == [engine.bank.complete(["x"], n, 5)[0] for n in others]
    engine.folder.load("a")


def test_an_adapter_that_goes_before_it_streams(engine, monkeypatch):
    real = engine.bank.stream_completions

    def stream(*args, **kwargs):
        engine.folder.unload("a")
        return real(*args, **kwargs)

    monkeypatch.setattr(engine.bank, "stream_completions", stream)
    with pytest.raises(UnknownAdapter, match="'a'"):
        engine.stream(["x"], "a")
    assert engine.streams.running == 0
    engine.folder.load("a")


def test_streams_are_few_and_come_to_the_same(engine):
    [want] = engine.bank.complete(["x"], "b", 12)
    stream = engine.stream(["x"], "b", 12)
    other = engine.stream(["x"], "a", 12)
    with pytest.raises(QueueFull):
        engine.stream(["x"], "b")
    steps = [step for [step] in stream]
    assert "".join(step.text for step in steps) == want.text
    assert (steps[-1].tokens, steps[-1].finish) == (want.tokens, want.finish)
    other.close()
    other.close()
    assert engine.streams.running == 0
    with pytest.raises(UnknownAdapter):
        engine.stream(["x"], "nobody")
    with pytest.raises(ValueError, match="no room"):
        engine.stream(["x" * 90])
    del other
    assert engine.streams.running == 0


def test_a_stop_waits_for_streams():
    with engine_on(base=speaker()) as engine:
        stream = engine.stream(["x"], None, 12)
        assert not engine.stop(0.05)
        with pytest.raises(NotServing):
            engine.stream(["x"])
        assert sum(len(step.text) for [step] in stream)
        assert engine.stop(60)
