"""A visitor's CSV: what is read, and what each bad one is told."""

import tracemalloc
from pathlib import Path

import pytest

from app.serve import csv_table, csv_upload
from app.serve.csv_table import guess_columns, read_table
from app.serve.csv_upload import labelled, read_labels, split_upload
from app.serve.limits import MAX_FILE_BYTES
from tests.app.tiny import csv_bytes

MESSY = Path(__file__).with_name("messy")


def test_labels_are_numbered_in_alphabetical_order():
    corpus, labels = read_labels(csv_bytes(80, ("pos", "neg")))
    assert labels == ("neg", "pos")
    assert corpus.labels[:2].tolist() == [1, 0]
    assert corpus.texts[0] == "dull weak poor number 0"


def test_columns_may_stand_in_any_order_among_others():
    rows = [f"x,{'ab'[i % 2]},text {i}" for i in range(60)]
    data = "\r\n".join(["Id, LABEL ,Text", *rows, "", ""])
    corpus, _ = read_labels(b"\xef\xbb\xbf" + data.encode())
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
        (b"", "Found: nothing"),
        (b"words\none\n", "Found: 'words'"),
        (b"text,label\n", "0 rows with a text and a label; at least 40"),
        (("text,label\n" + rows_of(50)).encode(), "one class only ('a')"),
        (
            ("text,label\n" + rows_of(30) + rows_of(30, "")).encode(),
            "30 rows with a text and a label; 30 without a label; at least 40",
        ),
        (b"text,label\n\xff\xfe\x00", "no text file"),
        (b"text,label\na\x81,b\n", "UTF-8, UTF-16 or Windows-1252"),
        (b"\xff\xfet\0e", "UTF-8, UTF-16 or Windows-1252"),
        (b"text,label\na\0,b\n", "no text file"),
        (b"PK\x03\x04\x00\x00", "no text file"),
        (b"\x80\x04\x95pickle", "no text file"),
        (b"x" * (MAX_FILE_BYTES + 1), "8.0 MB is too large; at most 8 MB"),
        (
            (
                "text,label\n" + "".join(f"w {i},l{i}\n" for i in range(60))
            ).encode(),
            "60 different labels; at most 20",
        ),
        (
            ("text,label\n" + rows_of(60) + "z," + "b" * 99).encode(),
            "1 labels have over 40 characters",
        ),
        (
            b'text,label\n"' + b"q" * 200_000 + b'",a\n',
            "line 2 is no CSV",
        ),
    ],
)
def test_a_bad_file_is_told_what_is_wrong(data, expected):
    with pytest.raises(ValueError) as error:
        read_labels(data, "mine.csv")
    assert expected in str(error.value)
    assert str(error.value).startswith("mine.csv was not taken")


def test_everything_wrong_is_listed_at_once():
    with pytest.raises(ValueError) as error:
        read_labels(b"text,label\nx,\n,a\nsome,b\n")
    text = str(error.value)
    for said in (
        "1 rows",
        "1 without a text",
        "1 without a label",
        "one class",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("file", "encoding", "delimiter", "columns", "first"),
    [
        (
            "semicolons-cp1252.csv",
            "Windows-1252",
            ";",
            ("Anmerkung", "Zufriedenheit"),
            "Café staff were friendly; the soup cost 4,50 €, no more",
        ),
        (
            "tabs-utf16.csv",
            "UTF-16",
            "\t",
            ("comment", "category"),
            "The “old” one, with a comma, is naïve",
        ),
        (
            "many-columns.csv",
            "UTF-8",
            ",",
            ("review", "stars"),
            "Came late, and the box was torn",
        ),
    ],
)
def test_files_as_programs_write_them(
    file, encoding, delimiter, columns, first
):
    table = read_table((MESSY / file).read_bytes(), file)
    assert (table.encoding, table.delimiter) == (encoding, delimiter)
    found = guess_columns(table)
    assert tuple(table.columns[column] for column in found) == columns
    upload = labelled(table, *found, file)
    assert upload.corpus.texts[0] == first
    assert len(upload.classes) == 2


def test_rows_that_lack_something_are_counted_and_left_out():
    table = read_table((MESSY / "many-columns.csv").read_bytes())
    upload = labelled(table, *guess_columns(table))
    assert upload.left_out == {"without a text": 1, "without a label": 3}
    assert upload.told == [
        "1 row without a text left out",
        "3 rows without a label left out",
    ]
    assert len(upload.corpus) == table.count - 4


def test_a_text_that_is_too_long_is_left_out():
    long = "text,label\n" + "y" * 5001 + ",b\n" + rows_of(30) + rows_of(30, "b")
    table = read_table(long.encode())
    upload = labelled(table, 0, 1)
    assert upload.left_out == {"with a text of over 5,000 characters": 1}


def test_of_very_many_rows_some_are_drawn():
    data = "text,label\n" + rows_of(3000) + rows_of(3000, "b", "other")
    table = read_table(data.encode())
    upload = labelled(table, 0, 1)
    assert upload.sampled == 6000 and len(upload.corpus) == 5000
    assert upload.told == ["5,000 of 6,000 rows drawn at random"]
    assert 2400 < upload.corpus.labels.sum() < 2600
    again = labelled(table, 0, 1)
    assert again.corpus.texts == upload.corpus.texts


def test_a_rare_label_is_drawn_as_well():
    data = "text,label\n" + rows_of(20_000) + rows_of(9, "rare", "other")
    upload = labelled(read_table(data.encode()), 0, 1)
    assert upload.classes == ("a", "rare") and len(upload.corpus) == 5_000
    assert upload.corpus.labels.sum() == 9
    splits = split_upload(upload.corpus, upload.classes)
    assert len(set(splits.train.labels)) == 2


def most_memory(act):
    """The most bytes that Python held at once while something ran."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_very_wide_file_is_refused_before_its_rows_are_read():
    """As lists as wide as the first line, these rows took 40 GB."""
    data = b"t,l" + b",x" * 100_000 + b"\n" + b"a\n" * 500
    message = "names 100,002 columns; at most 200"

    def read():
        with pytest.raises(ValueError, match=message):
            read_table(data)

    assert most_memory(read) < 50_000_000


def test_many_short_rows_are_counted_and_not_kept():
    data = b"text,label\n" + b"".join(
        b"%d,%s\n" % (i, b"yes" if i % 3 else b"no") for i in range(60_000)
    )
    data += b",no\n" * 1_000 + b"\n" * 1_000
    uploads = []

    def read():
        table = read_table(data)
        assert table.count == 61_000
        uploads.append(labelled(table, *guess_columns(table)))

    # As lists of cells they took 20 MB. Here it is four bytes a character
    # while lines are read, and the rows that are drawn.
    assert len(data) < 700_000
    assert most_memory(read) < 9_000_000
    (upload,) = uploads
    assert upload.told == [
        "1,000 rows without a text left out",
        "5,000 of 60,000 rows drawn at random",
    ]
    assert len(set(upload.corpus.texts)) == 5_000


def test_labels_that_are_all_different_are_not_counted_to_the_end():
    rows = "".join(f"w {i},l{i}\n" for i in range(1_001)) + "x,\n" * 5
    with pytest.raises(ValueError, match="over 1,000 different labels; at mo"):
        read_labels(b"text,label\n" + rows.encode())


def test_other_columns_can_be_picked():
    rows = [f"{'ab'[i % 2]},words {i},{'xy'[i // 30]}" for i in range(60)]
    table = read_table("\n".join(["label,text,other", *rows]).encode())
    assert guess_columns(table) == (1, 0)
    assert labelled(table, 1, 2).classes == ("x", "y")
    with pytest.raises(ValueError, match="the same column"):
        labelled(table, 1, 1)


def test_a_class_that_is_nearly_gone_is_told():
    data = ("text,label\n" + rows_of(60) + rows_of(7, "b", "same")).encode()
    corpus, labels = read_labels(data)
    with pytest.raises(ValueError, match="'b' has 7 different texts"):
        split_upload(corpus, labels)


def test_formulas_and_pickles_in_a_file_stay_text():
    bad = '"=cmd|calc!A0"'
    data = f"text,label\n{bad},a\n" + rows_of(40) + rows_of(40, "b", "other")
    corpus, _ = read_labels(data.encode())
    assert corpus.texts[0] == "=cmd|calc!A0"
    for module in (csv_table, csv_upload):
        assert not hasattr(module, "pickle")
