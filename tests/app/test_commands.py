"""The two commands: what they take, and how they refuse."""

import json

import numpy as np
import pytest

import keras_lora
from app import predict, train
from app.learn.batches import predict_texts
from app.texts import fetch
from app.texts.tasks import get_task
from tests.app.tiny import TinyTokenizer, adapter, tiny_base


@pytest.mark.parametrize("command", [train.main, predict.main])
def test_an_unknown_task_is_one_line_that_lists_the_others(command, capsys):
    texts = [] if command is train.main else ["a text"]
    assert command(["movies", *texts]) == 1
    error = capsys.readouterr().err
    assert "movies" in error and "movie-sentiment" in error
    assert "Traceback" not in error


def test_predicting_before_training_names_the_command(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert predict.main(["movie-sentiment", "a text"]) == 1
    error = capsys.readouterr().err
    assert "adapters/movie-sentiment.safetensors" in error
    assert "python -m app.train movie-sentiment" in error


def test_offline_is_one_line_and_no_traceback(monkeypatch, capsys):
    def offline(options):
        raise fetch.FetchError("fake==1.0 could not be downloaded")

    monkeypatch.setattr(train, "run", offline)
    assert train.main(["movie-sentiment"]) == 1
    assert "fake==1.0" in capsys.readouterr().err


def test_targets_are_names_or_all_linear():
    assert train.target_names("all-linear") == "all-linear"
    assert train.target_names("query,value") == ["query", "value"]
    assert train.target_names("query") == ["query"]


def test_json_holds_probabilities_in_full():
    task = get_task("movie-sentiment")
    row = np.array([1 / 3, 2 / 3])
    found = json.loads(predict.as_json(task, "a téxt", row))
    assert found["text"] == "a téxt" and found["label"] == "positive"
    assert found["probabilities"] == {"negative": 1 / 3, "positive": 2 / 3}


def test_a_line_has_the_likeliest_label_first():
    task = get_task("movie-sentiment")
    line = predict.line(task, "a text", np.array([0.9, 0.1]))
    assert line.startswith("negative") and "90.0%" in line
    assert "a text" in line


def test_probabilities_of_a_softmax_are_not_softened_again(
    capsys, tmp_path, monkeypatch
):
    base = tiny_base()
    path = adapter(tmp_path / "a", base=base, activation="softmax")
    monkeypatch.setattr("app.texts.base.load_base", lambda: base)
    monkeypatch.setattr("app.texts.base.Tokenizer", TinyTokenizer)
    text = "a bright film"
    command = ["movie-sentiment", text, "--adapter", str(path), "--json"]
    assert predict.main(command) == 0
    said = json.loads(capsys.readouterr().out)["probabilities"]
    keras_lora.eject(base)
    model = predict.load_adapted(path, get_task("movie-sentiment"))
    [row] = predict_texts(model, [text], TinyTokenizer())
    np.testing.assert_allclose(list(said.values()), row, rtol=1e-5)
    assert np.ptp(row) > 0.05 and sum(said.values()) == pytest.approx(1)
