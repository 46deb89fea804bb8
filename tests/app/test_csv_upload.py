"""A visitor's CSV: what is read, and what each bad one is told."""

import pytest

from app.serve import csv_upload
from app.serve.csv_upload import read_csv, read_labels, split_upload
from app.serve.limits import MAX_CSV_BYTES
from tests.app.tiny import csv_bytes


def test_labels_are_numbered_in_alphabetical_order():
    corpus, labels = read_labels(csv_bytes(80, ("pos", "neg")))
    assert labels == ("neg", "pos")
    assert corpus.labels[:2].tolist() == [1, 0]
    assert corpus.texts[0] == "dull weak poor number 0"


def test_columns_may_stand_in_any_order_among_others():
    rows = [f"x,{'ab'[i % 2]},text {i}" for i in range(60)]
    data = "\r\n".join(["Id, LABEL ,Text", *rows, "", ""])
    corpus = read_csv(b"\xef\xbb\xbf" + data.encode())
    assert len(corpus) == 60 and corpus.texts[3] == "text 3"


def test_an_upload_is_split_without_duplicates():
    data = csv_bytes(100) + b"\n" + csv_bytes(100).partition(b"\n")[2]
    corpus, labels = read_labels(data)
    splits = split_upload(corpus, labels)
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == 100
    assert len(set(splits.test.labels)) == 2


def rows_of(count, label="a", text="some words"):
    return "".join(f"{text} {i},{label}\n" for i in range(count))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "Missing: text, label. Found: nothing"),
        (b"one,two\n1,2\n", "Missing: text, label. Found: 'one', 'two'"),
        (b"text,topic\n", "Missing: label"),
        (b"text,label\n", "0 rows; at least 40"),
        (("text,label\n" + rows_of(50)).encode(), "one class only ('a')"),
        (
            ("text,label\n" + rows_of(30) + rows_of(30, "")).encode(),
            "30 rows have no label, the first is row 32",
        ),
        (
            ("text,label\n,a\n" + rows_of(40) + rows_of(9, "b")).encode(),
            "1 rows have no text, the first is row 2",
        ),
        (b"text,label\n\xff\xfe\x00", "not UTF-8"),
        (b"text,label\na\0,b\n", "no text file"),
        (b"PK\x03\x04\x00\x00", "no text file"),
        (b"x" * (MAX_CSV_BYTES + 1), "4.0 MB is too large"),
        (
            ("text,label\n" + rows_of(5001, "a")).encode(),
            "5,001 rows; at most 5,000",
        ),
        (
            (
                "text,label\n" + "".join(f"w {i},l{i}\n" for i in range(60))
            ).encode(),
            "60 different labels; at most 20",
        ),
        (
            ("text,label\n" + "y" * 5001 + ",b\n" + rows_of(60)).encode(),
            "over 5,000 characters, the first is row 2",
        ),
        (
            ("text,label\n" + rows_of(60) + "z," + "b" * 99).encode(),
            "a label of over 40 characters",
        ),
        (
            b'text,label\n"' + b"q" * 200_000 + b'",a\n',
            "line 2 is no CSV",
        ),
    ],
)
def test_a_bad_file_is_told_what_is_wrong(data, expected):
    with pytest.raises(ValueError) as error:
        read_csv(data, "mine.csv")
    assert expected in str(error.value)
    assert str(error.value).startswith("mine.csv was not taken")


def test_everything_wrong_is_listed_at_once():
    with pytest.raises(ValueError) as error:
        read_csv(b"text,label\nx,\n,a\n")
    text = str(error.value)
    for said in ("2 rows", "no text", "no label", "one class"):
        assert said in text


def test_a_class_that_is_nearly_gone_is_told():
    data = ("text,label\n" + rows_of(60) + rows_of(7, "b", "same")).encode()
    corpus, labels = read_labels(data)
    with pytest.raises(ValueError, match="'b' has 7 different texts"):
        split_upload(corpus, labels)


def test_formulas_and_pickles_in_a_file_stay_text():
    bad = '"=cmd|calc!A0"'
    data = f"text,label\n{bad},a\n" + rows_of(40) + rows_of(40, "b", "other")
    corpus = read_csv(data.encode())
    assert corpus.texts[0] == "=cmd|calc!A0"
    assert not hasattr(csv_upload, "pickle")
