"""Corpora: what is read, what is dropped, how the rest is cut."""

import io
import tarfile
from collections import Counter

import numpy as np
import pytest

from app.texts import data, tasks
from app.texts.data import Split, draw


def corpus(n=200, classes=3):
    labels = np.arange(n, dtype="int32") % classes
    return Split([f"text number {i}" for i in range(n)], labels)


@pytest.fixture
def rated(tmp_path):
    """An archive of ratings, laid out as the real one."""

    def write(**sources):
        with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
            for source, lines in sources.items():
                content = "\r\n".join(lines).encode()
                name = f"hutto_ICWSM_2014/{source}_GroundTruth.txt"
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path

    return write


def test_ratings_are_read_with_plain_characters_and_spaces(rated):
    folder = rated(tweets=["1\t2.5\tyou &amp;  me\ttoo", "2\t-0.1\tno", ""])
    assert data.read_ratings(folder, "tweets") == [
        (2.5, "you & me too"),
        (-0.1, "no"),
    ]


def test_sentiment_is_the_sign_of_clear_ratings(rated):
    lines = ["1\t0.5\tgood", "2\t-0.5\tbad", "3\t0.49\tso", "4\t-0.4\tlala"]
    read = tasks.get_task("tweet-sentiment").read
    found = read(rated(tweets=lines))
    assert found.texts == ["good", "bad"]
    assert found.labels.tolist() == [1, 0]


def test_text_source_labels_each_corpus_by_its_place(rated):
    folder = rated(**{name: [f"1\t0\t{name}"] for name in tasks.SOURCES})
    found = tasks.get_task("text-source").read(folder)
    assert found.texts == list(tasks.SOURCES)
    assert found.labels.tolist() == [0, 1, 2, 3]


def test_class_folders_are_labelled_in_the_order_given(tmp_path):
    for name in ("x", "y"):
        folder = tmp_path / "deep" / name
        folder.mkdir(parents=True)
        (folder / "1.txt").write_bytes(b"caf\xe9\n" + name.encode())
    found = data.read_class_folders(tmp_path, ("y", "x"))
    assert [text[-1] for text in found.texts] == ["y", "x"]
    assert found.labels.tolist() == [0, 1]


def test_a_duplicate_is_one_text_whatever_its_case_and_spacing():
    texts = ["Good film", "bad", "good  FILM", "bad"]
    found = data.drop_duplicates(Split(texts, np.array([1, 0, 1, 0])))
    assert found.texts == ["Good film", "bad"]
    assert found.labels.tolist() == [1, 0]


def test_a_text_with_two_labels_goes_altogether():
    texts = ["same", "other", "Same", "same"]
    found = data.drop_duplicates(Split(texts, np.array([1, 0, 0, 1])))
    assert found.texts == ["other"]


def test_every_text_is_in_one_part_with_its_label():
    whole = corpus()
    parts = data.split(whole)
    labels = dict(zip(whole.texts, whole.labels, strict=True))
    found = [
        (text, label)
        for part in (parts.train, parts.validation, parts.test)
        for text, label in zip(part.texts, part.labels, strict=True)
    ]
    assert sorted(found) == sorted(labels.items())


def test_the_cut_is_80_10_10_in_every_class():
    labels = np.array([0] * 300 + [1] * 100, "int32")
    parts = data.split(Split([str(i) for i in range(400)], labels))
    assert Counter(parts.test.labels.tolist()) == {0: 30, 1: 10}
    assert Counter(parts.validation.labels.tolist()) == {0: 30, 1: 10}
    assert Counter(parts.train.labels.tolist()) == {0: 240, 1: 80}


def test_the_cut_is_the_same_each_time_and_another_by_seed():
    first, again = data.split(corpus()), data.split(corpus())
    assert first.test.texts == again.test.texts
    assert first.train.texts == again.train.texts
    other = data.split(corpus(), seed=1)
    assert set(first.test.texts) != set(other.test.texts)


def test_an_unknown_task_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'movies'") as caught:
        tasks.get_task("movies")
    assert all(name in str(caught.value) for name in tasks.TASKS)


def test_every_task_has_a_name_two_labels_and_examples():
    for name, task in tasks.TASKS.items():
        assert task.name == name
        assert len(set(task.labels)) == len(task.labels) >= 2
        assert len(task.examples) >= 3


def test_rows_are_drawn_by_class():
    labels = np.repeat([0, 1, 3], [1_000, 500, 4])
    rows = draw(labels, 150, seed=1, fewest=3)
    assert len(set(rows)) == len(rows) == 150
    assert rows.tolist() == sorted(rows)
    assert np.bincount(labels[rows]).tolist() == [97, 50, 0, 3]
    assert rows.tolist() == draw(labels, 150, seed=1, fewest=3).tolist()
    assert rows.tolist() != draw(labels, 150, seed=2, fewest=3).tolist()
    # One of each, even where there is no room for it; all where there is.
    assert np.bincount(labels[draw(labels, 2)]).tolist() == [1, 1, 0, 1]
    assert draw(labels, 2_000).tolist() == list(range(len(labels)))
