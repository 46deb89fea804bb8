"""`keras-lora serve` as a process, and as OpenAI's own client sees it."""

import argparse
import signal
import sys

import keras
import numpy as np
import openai
import pytest

from keras_lora.cli import main
from keras_lora.serve.base import read_base
from keras_lora.serve.completions import Until
from keras_lora.serve.options import add_arguments, make_engine
from tests.banks import few_tasks, off
from tests.helpers import refused
from tests.presets import TASKS, TEXTS, write_preset
from tests.serve.served import Server, copy_tasks, engine_on, wait_until
from tests.speaking import dialects, speaker, speaking_bank

TOKEN = "0123456789abcdef"

pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A small language model from a preset, two adapters, a token."""
    work = tmp_path_factory.mktemp("serve")
    (work / "adapters").mkdir()
    dialects(work / "adapters", "ab")
    speaker().save_to_preset(str(work / "preset"))
    server = Server(
        work / "log",
        str(work / "preset"),
        "--adapters",
        str(work / "adapters"),
        "--name",
        "speaker",
        "--rank",
        "4",
        KERAS_LORA_TOKEN=TOKEN,
    )
    try:
        wait_until(server.is_ready, 120)
        wait_until(lambda: len(models(server)) == 3)
        yield server
    finally:
        server.end()


def client(server, key=TOKEN):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=key, max_retries=0
    )


def models(server):
    return {model.id: model for model in client(server).models.list()}


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    with speaking_bank(tmp_path_factory.mktemp("x")) as bank:
        yield bank


def test_the_models(server):
    found = models(server)
    assert list(found) == ["speaker", "a", "b"]
    assert found["a"].parent == "speaker" and found["speaker"].parent is None


def test_completions_by_openai_s_client(server, bank):
    create = client(server).completions.create
    said = set()
    for name in ("a", "b", "speaker"):
        own = None if name == "speaker" else name
        [want] = bank.complete(["the cat"], own, 9)
        got = create(model=name, prompt="the cat", max_tokens=9, temperature=0)
        assert got.object == "text_completion" and got.model == name
        [choice] = got.choices
        assert (choice.text, choice.finish_reason) == (want.text, want.finish)
        assert got.usage.prompt_tokens == want.prompt_tokens
        assert got.usage.completion_tokens == want.tokens
        assert got.usage.total_tokens == want.prompt_tokens + want.tokens
        said.add(choice.text)
    assert len(said) == 3
    prompts = ["x", "a b c"]
    got = create(model="b", prompt=prompts, max_tokens=5)
    want = bank.complete(prompts, "b", 5)
    assert [c.text for c in got.choices] == [c.text for c in want]
    assert [c.index for c in got.choices] == [0, 1]


def test_a_stream_by_openai_s_client(server, bank):
    [want] = bank.complete(["the cat"], "a", 12)
    stream = client(server).completions.create(
        model="a",
        prompt="the cat",
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    assert len(events) >= 3  # two steps and the usage
    text = "".join(c.text for event in events for c in event.choices)
    assert text == want.text
    *_, last, end = events
    assert last.choices[0].finish_reason == want.finish
    assert end.usage.completion_tokens == want.tokens and not end.choices


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_stops_a_completion(server, bank, stream):
    [whole] = bank.complete(["the cat"], "a", 12)
    stop = whole.text[5:8]
    got = client(server).completions.create(
        model="a",
        prompt="the cat",
        max_tokens=12,
        stop=["never said", stop],
        stream=stream,
    )
    found = list(got) if stream else [got]
    choices = [choice for one in found for choice in one.choices]
    text = "".join(choice.text for choice in choices)
    assert text == whole.text[: whole.text.index(stop)]
    assert choices[-1].finish_reason == "stop"


def test_failures_are_what_the_client_knows(server):
    create = client(server).completions.create
    with pytest.raises(openai.NotFoundError, match="nobody"):
        create(model="nobody", prompt="x")
    with pytest.raises(openai.BadRequestError):
        create(model="../a", prompt="x")
    for wrong in (
        {"prompt": "y" * 90},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "temperature": 0.7},
        {"prompt": "x", "n": 2},
        {"prompt": "x", "stop": ["a"] * 5},
        {"prompt": "x", "stop": [""]},
        {"prompt": [1, 2, 3]},
        {"prompt": []},
        {"prompt": "y" * 90, "stream": True},
        {"prompt": ["x"] * 257},
        {"prompt": "x", "extra_body": {"unheard_of": 1}},
    ):
        with pytest.raises(openai.UnprocessableEntityError):
            create(model="a", **wrong)
    with pytest.raises(openai.AuthenticationError):
        client(server, "another-token-of-this-length").models.list()


def test_it_answers_what_it_took_when_it_is_told_to_end(server):
    """The last test of this server: a stream goes on to its end."""
    stream = client(server).completions.create(
        model="b", prompt="x", max_tokens=20, stream=True
    )
    events = iter(stream)
    found = [next(events)]
    server.process.send_signal(signal.SIGTERM)
    found += list(events)
    assert len(found) > 1 and found[-1].choices[0].finish_reason
    assert server.process.wait(60) == 0
    assert server.status() is None
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_a_start_that_fails_ends_and_says_why(tmp_path):
    server = Server(
        tmp_path / "log", "tests.serve.bases:nothing", "--adapters", "tests"
    )
    try:
        assert server.process.wait(120) == 1
    finally:
        server.end()
    assert "must give a Keras model" in server.log.read_text()


def refuses(capsys, *arguments):
    """What the command says where it does not start."""
    assert main(["serve", *arguments]) == 1
    return capsys.readouterr().err


def test_what_is_wrong_with_a_command_is_said_at_once(
    tmp_path, capsys, monkeypatch
):
    usual = ("tests.serve.bases:alone", "--adapters", str(tmp_path))
    monkeypatch.setenv("KERAS_LORA_TOKEN", "short")
    assert "at least 16" in refuses(capsys, *usual)
    monkeypatch.delenv("KERAS_LORA_TOKEN")
    (tmp_path / "token").write_text("spaces are not for tokens")
    token = ("--token-file", str(tmp_path / "token"))
    assert "without spaces" in refuses(capsys, *usual, *token)
    missing = ("--token-file", str(tmp_path / "none"))
    assert "not read" in refuses(capsys, *usual, *missing)
    assert "--name" in refuses(capsys, *usual, "--name", "../base")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = refuses(capsys, *usual)
    assert 'pip install "keras-lora[serve]"' in said and "uvicorn" in said


def test_a_base_by_function_file_or_preset(tmp_path):
    base, preprocessor = read_base("tests.serve.bases:with_words")
    assert preprocessor(["a", "bc"]).shape == (2, 6)
    assert read_base("tests.serve.bases:alone")[1] is None
    base.save(tmp_path / "base.keras")
    again, none = read_base(str(tmp_path / "base.keras"))
    assert none is None
    for one, two in zip(base.weights, again.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two)
        )
    folder = write_preset("TextClassifier", tmp_path / "preset")
    task, _ = read_base(folder)
    assert task.predict(TEXTS, verbose=0).shape == (4, 2)
    backbone = TASKS["TextClassifier"]().backbone
    backbone.save_to_preset(str(tmp_path / "backbone"))
    assert read_base(str(tmp_path / "backbone"))[0].name == backbone.name


def test_an_option_reaches_the_engine(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    base = ["tests.serve.bases:alone", "--adapters", str(tmp_path)]
    for words, size in ((), 512), (("--max-axis", "7"), 7):
        engine = make_engine(parser.parse_args([*base, *words]), None)
        try:
            assert engine.reader.max_axis == size
        finally:
            engine.stop()
            engine.bank.detach()


@pytest.mark.parametrize(
    "text, words",
    [
        ("no/such/file.keras", "was not read"),
        ("no_such_module:base", "no function of a module"),
        ("tests.serve.bases:missing", "no function of a module"),
        ("tests.serve.bases:nothing", "must give a Keras model"),
        ("tests", "not read"),
    ],
)
def test_what_is_no_base(text, words):
    refused(lambda: read_base(text), words)


def test_texts_through_the_function_s_own_preprocessor(tmp_path):
    folder = copy_tasks(tmp_path / "a", "t0")
    base, preprocessor = read_base("tests.serve.bases:with_words")
    with engine_on(folder, base, preprocessor=preprocessor) as engine:
        futures = engine.predict(engine.reader.rows(["a", "bcd"]), "t0")
        got = [future.result(60).outputs for future in futures]
    for number, y in zip((1, 3), got, strict=True):
        assert off(y, few_tasks()["t0"].row(number)) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_stop_is_found_across_pieces(size):
    text, stops = "one two thrtwo threefour", ["two three", "four", "xyz"]
    until = Until(stops)
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    said = "".join(
        until.next(piece, number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    )
    assert said == "one two thr" and until.ended
    until = Until(["never"])
    assert until.next("to n", False) + until.next("ev", True) == "to nev"
    assert not until.ended
