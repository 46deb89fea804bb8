"""Every page and control, through Streamlit's own test driver."""

import os
import sys
from dataclasses import replace

import keras
import pytest
import streamlit as st

from app.learn import estimate
from app.learn.shipped import SHIPPED
from app.serve import service as services
from app.serve.csv_upload import read_labels, split_upload
from app.texts import tasks
from app.texts.data import Split
from app.texts.fetch import FetchError
from tests.app.conftest import main_kept
from tests.app.driving import (
    errors,
    fine,
    metrics,
    open_page,
    train_own,
    upload,
    wait_for_run,
)
from tests.app.outside import read
from tests.app.tiny import adapter, csv_bytes, tiny_source
from tests.elsewhere import new_process

PAGES = ("switch", "mixed", "train", "adapters", "how")

pytestmark = pytest.mark.usefixtures("tiny_demo", "own_shelf")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens(name, few_texts):
    app = open_page(name)
    assert not app.error
    assert len(app.title) == 1


def test_a_switch_changes_the_answer_and_shows_both_times():
    app = open_page()
    assert {"Adapter lookup", "Prediction", "Tokens read"} <= set(metrics(app))
    before = [chart.proto.SerializeToString() for chart in charts(app)]
    fine(app.pills(key="task").select("text-source").run())
    assert len(before) == len(charts(app)) == 2
    assert before != [c.proto.SerializeToString() for c in charts(app)]
    found = metrics(app)["Adapter lookup"]
    milliseconds = float(found.removesuffix(" ms"))
    assert milliseconds >= 0


def said(app):
    return " ".join(read(c.value) for c in [*app.caption, *app.markdown])


def charts(app):
    return app.get("vega_lite_chart")


def test_the_address_picks_the_task():
    app = open_page(task="Tweet sentiment")
    assert app.pills(key="task").value == "tweet-sentiment"
    assert not app.warning


def test_an_address_with_no_such_task_says_so():
    app = open_page(task="no-such-task")
    assert app.pills(key="task").value == "movie-sentiment"
    assert "no-such-task" in read(app.warning[0].value)


def test_an_example_goes_with_its_task():
    app = open_page()
    assert "tasks, one model" in said(app) and "instead of" in said(app)
    fine(app.pills(key="task").select("tweet-sentiment").run())
    examples = tasks.get_task("tweet-sentiment").examples
    assert app.text_area(key="text").value == examples[0]
    fine(app.text_area(key="text").set_value("my own words").run())
    fine(app.pills(key="task").select("movie-sentiment").run())
    assert app.text_area(key="text").value == "my own words"
    assert not app.info


def test_a_text_of_another_task_is_told():
    app = open_page()
    example = tasks.get_task("tweet-sentiment").examples[1]
    fine(app.text_area(key="text").set_value(example).run())
    told = read(app.info[0].value)
    assert "This text came with “Tweet sentiment”" in told
    assert "“Movie sentiment” learned from" in told


def test_every_task_answers_the_same_text_at_once():
    app = open_page()
    [table] = [m.value for m in app.markdown if m.value.startswith("| Task")]
    rows = [read(row) for row in table.split("\n")[2:]]
    assert len(rows) == len(SHIPPED)
    assert rows[0].startswith("| **Movie sentiment** | **")
    assert f"{len(SHIPPED)} answers in one pass of the model" in said(app)
    chosen = charts(app)[0].proto.SerializeToString()
    assert chosen


def test_an_answer_is_corrected_and_learned_from(few_texts):
    app = open_page()
    name, text = "movie-sentiment", "a bright strong fine mess"
    fine(app.text_area(key="text").set_value(text).run())
    [pills] = [p for p in app.pills if "correct-" in (p.key or "")]
    right = pills.options[0]
    fine(pills.set_value(right).run())
    assert app.session_state["corrections"][name] == {
        text: ("negative", "positive").index(right)
    }
    app.switch_page("app_pages/train.py").run()
    fine(app.selectbox(key="source").select(f"corrections:{name}").run())
    assert app.dataframe[0].value["text"].tolist() == [text]
    fine(app.button(key="start").click().run())
    wait_for_run(app)
    assert "Of your 1 correction it now gives" in said(app)


def test_an_example_becomes_the_text():
    app = open_page()
    example = tasks.get_task("movie-sentiment").examples[2]
    fine(app.pills(key="example-movie-sentiment").select(example).run())
    assert app.text_area(key="text").value == example


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the text is empty"),
        ("   \n ", "the text is empty"),
        ("x" * 100_000, "100,000 characters; at most 5,000"),
    ],
)
def test_a_bad_text_gets_a_message_and_the_app_lives_on(text, said):
    app = open_page()
    fine(app.text_area(key="text").set_value(text).run())
    assert said in errors(app)
    fine(app.text_area(key="text").set_value("a fine film").run())
    assert not app.error and "Adapter lookup" in metrics(app)


def test_a_mixed_batch_is_answered_both_ways():
    app = open_page("mixed")
    fine(app.button(key="answer").click().run())
    found = metrics(app)
    assert float(found["Largest difference"]) < 1e-4
    assert f"{len(SHIPPED)} calls, one for each task" in found
    assert "ms" in app.header[0].value
    answers = app.dataframe[-1].value
    assert (answers["one pass"] == answers["alone"]).all()
    assert len(answers) == 2 * len(SHIPPED)


def edit_rows(app, **edits):
    nothing = {"edited_rows": {}, "added_rows": [], "deleted_rows": []}
    app.session_state[app.data_editor[0].key] = {**nothing, **edits}
    return fine(app.button(key="answer").click().run())


def test_edited_and_added_rows_are_answered():
    added = {"text": "one more", "task": "Text source"}
    app = edit_rows(open_page("mixed"), added_rows=[added])
    assert app.dataframe[-1].value["text"].iloc[-1] == "one more"


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"edited_rows": {1: {"text": ""}}}, "row 2: the text is empty"),
        ({"edited_rows": {0: {"text": "y" * 100_000}}}, "row 1: the text has"),
        (
            {"added_rows": [{"text": "no task"}]},
            f"row {2 * len(SHIPPED) + 1}: pick a task",
        ),
        (
            {"added_rows": [{}] * 40},
            f"{2 * len(SHIPPED) + 40} rows; at most 32",
        ),
        ({"deleted_rows": list(range(2 * len(SHIPPED)))}, "the table is empty"),
    ],
)
def test_bad_rows_get_a_message(edits, said):
    app = edit_rows(open_page("mixed"), **edits)
    assert said in errors(app)


def test_an_own_csv_is_trained_added_and_asked(few_texts, own_shelf):
    app = train_own(open_page("train"), csv_bytes(80))
    fine(app.slider(key="rank").set_value(2).run())
    assert int(metrics(app)["Trainable weights"].replace(",", "")) > 0
    assert "≈" in metrics(app)["Estimated time"]
    fine(app.button(key="start").click().run())
    wait_for_run(app)
    # Of so few texts a share would promise too much.
    right = metrics(app)["This adapter"]
    assert right.endswith(" of 8")
    assert metrics(app)["TF-IDF + logistic regression"] == "8 of 8"
    assert "95% interval of this adapter's share: " in said(app)
    assert "8 texts are too few" in app.warning[0].value
    fine(app.button(key="add").click().run())
    assert any("mine (own)" in read(info.value) for info in app.info)
    app.switch_page("app_pages/switch.py").run()
    own = [o for o in app.pills(key="task").options if "own" in o]
    assert list(map(read, own)) == ["mine (own)"]
    # It keeps what is known of it.
    fine(app.pills(key="task").set_value(own_shelf[0].adapters[0].name).run())
    assert f"this adapter is right in {right}" in said(app)
    assert len(charts(app)) == 2
    app.switch_page("app_pages/train.py").run()
    fine(app.button(key="again").click().run())
    assert app.selectbox(key="source").value == "Your own CSV"


@pytest.mark.extra
def test_a_stopped_run_keeps_what_it_has(few_texts):
    app = train_own(open_page("train"), csv_bytes(4000))
    fine(app.slider(key="epochs").set_value(5).run())
    fine(app.segmented_control(key="method").select("bottleneck").run())
    fine(app.button(key="start").click().run())
    run = app.session_state["run"]
    while not run.step and not run.done.is_set():
        run.done.wait(0.05)
    other = open_page("train")
    assert "Someone else is training" in other.info[0].value
    train_own(other, csv_bytes(80))
    fine(other.button(key="start").click().run())
    assert "Someone else is training" in errors(other)
    fine(app.button(key="stop").click().run())
    wait_for_run(app)
    assert "Stopped" in app.success[0].proto.title
    assert run.outcome.stopped


def test_every_target_choice_has_its_count(few_texts):
    app = open_page("train")
    counts = {}
    for choice in ("all-linear", "attention", "feed-forward"):
        fine(app.selectbox(key="targets").select(choice).run())
        counts[choice] = metrics(app)["Trainable weights"]
    assert len(set(counts.values())) == 3
    fine(app.selectbox(key="targets").select("choose").run())
    assert metrics(app)["Trainable weights"] == counts["all-linear"]
    fine(app.pills(key="layers").set_value([]).run())
    assert "at least one layer" in app.warning[0].value
    fine(app.slider(key="alpha").set_value(4).run())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"text,label\n" + b"a b c,one\n" * 50, "one class only"),
        (b"words\nx\n", "a column of texts and one of labels"),
        (b"text,label\n" + b"x" * 9_000_000, "8.6 MB is too large"),
        (b"\x80\x04\x95pickle", "no text file"),
    ],
)
def test_a_bad_csv_gets_a_message(few_texts, data, said):
    app = train_own(open_page("train"), data)
    assert said in errors(app)
    train_own(app, csv_bytes(80), "good.csv")


def test_texts_that_cannot_be_fetched_are_told(monkeypatch):
    st.cache_data.clear()

    def offline(task, progress=None):
        raise FetchError(f"the texts of {task.name} are not the pinned ones")

    monkeypatch.setattr(tasks.Task, "load", offline)
    app = open_page("train")
    fine(app.selectbox(key="source").select("news-topic").run())
    assert "not the pinned ones" in errors(app)


def test_the_adapters_page_lists_shows_and_checks():
    app = open_page("adapters")
    table = app.dataframe[0].value
    assert len(table) == len(SHIPPED)
    assert set(table["method"]) == {"LoRA, rank 4", "bottleneck, width 4"}
    fine(app.selectbox(key="shown").select("text-source").run())
    fine(app.button(key="check-text-source").click().run())
    found = metrics(app)
    assert float(found["Adapter off − base"]) == 0
    assert 0 < float(found["Merged − adapted"]) < 1e-3
    assert float(found["Adapted − base"]) > 1e-2


def test_an_adapter_is_uploaded_and_removed(tmp_path):
    data = adapter(tmp_path / "a.safetensors", classes=3).read_bytes()
    app = open_page("adapters")
    fine(app.text_input(key="adapter-labels").set_value("x, y, z").run())
    upload(app, data)
    assert "mine" in app.success[0].value
    assert len(app.dataframe[0].value) == len(SHIPPED) + 1
    name = app.selectbox(key="shown").options.index("mine")
    fine(app.selectbox(key="shown").select_index(name).run())
    remove = next(b for b in app.button if (b.key or "").startswith("remove"))
    fine(remove.click().run())
    assert len(app.dataframe[0].value) == len(SHIPPED)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"nonsense"), "no safetensors file"),
        (lambda path: path.write_bytes(b"x" * 9_000_000), "too large"),
        (lambda path: adapter(path, classes=1), "1 classes"),
    ],
)
def test_a_bad_adapter_gets_a_message(tmp_path, write, said):
    path = tmp_path / "bad.safetensors"
    write(path)
    app = upload(open_page("adapters"), path.read_bytes())
    assert said in errors(app)
    assert len(app.dataframe[0].value) == len(SHIPPED)


def test_without_a_network_at_the_first_start_it_says_so_and_tries_again(
    monkeypatch, tiny_folder
):
    good = services.REAL
    calls = []

    def offline(progress):
        calls.append(1)
        raise FetchError("tiny==1.0 could not be downloaded: no network")

    offline_source = services.Source(offline, good.make_tokenizer, tiny_folder)
    monkeypatch.setattr(services, "REAL", offline_source)
    st.cache_resource.clear()
    app = open_page()
    assert "no network" in errors(app)
    fine(app.button(key="retry").click().run())
    assert len(calls) == 2 and "no network" in errors(app)
    fine(app.switch_page("app_pages/how.py").run())
    assert not app.error
    monkeypatch.setattr(services, "REAL", good)
    st.cache_resource.clear()


def test_no_adapters_at_all_is_told_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(services, "REAL", tiny_source(tmp_path))
    st.cache_resource.clear()
    app = open_page()
    assert "python -m app.ship" in read(app.warning[0].value)
    fine(app.switch_page("app_pages/adapters.py").run())
    assert "empty" in app.info[0].value
    monkeypatch.undo()
    st.cache_resource.clear()


def test_a_run_of_a_page_leaves_keras_s_state():
    """Streamlit clears it, and the next prediction would prepare anew."""
    open_page()
    first = keras.layers.Dense(1).name
    open_page()
    assert keras.layers.Dense(1).name != first


def test_a_process_starts_after_a_page_was_run():
    """It runs `__main__`, where Streamlit leaves the app's script."""
    main = sys.modules["__main__"]
    with main_kept():
        open_page()
        assert sys.modules["__main__"] is not main
    assert sys.modules["__main__"] is main
    with new_process() as process:
        assert process.submit(os.getpid).result() != os.getpid()


def test_the_estimate_is_of_all_texts_and_not_of_the_first(monkeypatch):
    def splits_of(text):
        corpus, labels = read_labels(csv_bytes(80))
        splits = split_upload(corpus, labels)
        texts = ["the same"] + [text] * (len(splits.train) - 1)
        return replace(splits, train=Split(texts, splits.train.labels))

    found = {"movie-sentiment": splits_of("word")}
    found["tweet-sentiment"] = splits_of("word " * 60)
    tokens = []

    def seconds(speeds, mean, *others):
        tokens.append(mean)
        return 1.0

    st.cache_data.clear()
    monkeypatch.setattr(tasks.Task, "load", lambda task: found[task.name])
    monkeypatch.setattr(estimate, "training_seconds", seconds)
    app = open_page("train")
    fine(app.selectbox(key="source").select("tweet-sentiment").run())
    assert tokens[-1] > 10 * tokens[0]
