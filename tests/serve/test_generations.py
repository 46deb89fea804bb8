"""The engine over a language model."""

import threading

import pytest

from keras_lora.serve import NotServing, QueueFull, UnknownAdapter
from tests.serve.served import engine_on
from tests.speaking import TEXTS, dialects, speaker

pytest.importorskip("keras_hub")

NAMES = ["a", None, "b", "a"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialects")
    dialects(folder, "ab")
    with engine_on(
        folder, speaker(), wait=0.1, poll=0.001, max_streams=2
    ) as engine:
        engine.folder.load("a")
        engine.folder.load("b")
        yield engine


def test_prompts_of_many_callers_are_completed_together(engine):
    assert engine.speaks
    want = engine.bank.complete(TEXTS, NAMES, max_tokens=9)
    assert len({completion.text for completion in want}) == 4
    batches = []
    engine.runner._observe = lambda *batch: batches.append(batch)
    futures = [
        future
        for text, name in zip(TEXTS, NAMES, strict=True)
        for future in engine.generate([text], name, 9)
    ]
    assert [future.result(60) for future in futures] == want
    assert [rows for _, rows, _ in batches] == [4]


def test_a_prompt_without_room_fails_alone(engine):
    futures = engine.generate(["x", "y" * 90, "z"], "a", 5)
    with pytest.raises(ValueError, match="no room"):
        futures.pop(1).result(60)
    got = [future.result(60) for future in futures]
    assert got == engine.bank.complete(["x", "z"], "a", 5)


def test_predictions_do_not_wait_for_a_generation(engine, monkeypatch):
    free, real = threading.Event(), engine.bank.complete

    def complete(*args, **kwargs):
        assert free.wait(60)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine.bank, "complete", complete)
    [slow] = engine.generate(["x"], "a")
    [quick] = engine.predict(["x"], "a")
    assert quick.result(60).outputs.ndim == 2
    assert not slow.done()
    free.set()
    assert slow.result(60).tokens


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
