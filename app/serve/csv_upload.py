"""A visitor's CSV as labelled texts: data only, checked before use."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.serve.limits import (
    MAX_CHARACTERS,
    MAX_CLASSES,
    MAX_FILE_BYTES,
    MAX_UPLOAD_MEGABYTES,
)
from app.texts.data import Split, Splits, drop_duplicates, split
from keras_lora.errors import raise_if

MAX_ROWS = 5_000
FEWEST_ROWS = 40
FEWEST_OF_A_CLASS = 8
MAX_LABEL = 40
"""Characters of a label."""
MAX_COLUMNS = 200

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 200
"""Rows by which the delimiter and the columns are told."""

TEXTS = ("text", "sentence", "review", "message", "comment", "content", "body")
LABELS = ("label", "class", "category", "sentiment", "topic", "target", "tag")
"""What the columns are often called, the first of them first."""


@dataclass(frozen=True)
class Table:
    """A CSV's cells.

    Args:
        columns: the first line: what the columns are called.
        rows: the other lines that are not empty, as long as `columns`.
        encoding: how its bytes were read, for people.
        delimiter: what stands between its cells.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    encoding: str
    delimiter: str


@dataclass(frozen=True)
class Upload:
    """What is learned from.

    Args:
        corpus: texts and the numbers of their labels.
        classes: the labels, in alphabetical order.
        left_out: how many rows were left out, by why.
        sampled: rows that there were, where a part was drawn; else None.
    """

    corpus: Split
    classes: tuple[str, ...]
    left_out: dict[str, int]
    sampled: int | None

    @property
    def told(self) -> list[str]:
        """What did not come along, for people."""
        found = [
            f"{count:,} {'row' if count == 1 else 'rows'} {why} left out"
            for why, count in self.left_out.items()
        ]
        if self.sampled is not None:
            found.append(
                f"{MAX_ROWS:,} of {self.sampled:,} rows drawn at random"
            )
        return found


def read_labels(
    data: bytes, name: str = "The file"
) -> tuple[Split, tuple[str, ...]]:
    """Texts and labels of the columns that look like them, and the classes.

    Raises:
        ValueError: everything wrong with it at once.
    """
    table = read_table(data, name)
    found = labelled(table, *guess_columns(table), name)
    return found.corpus, found.classes


def read_table(data: bytes, name: str = "The file") -> Table:
    """Reads a CSV in any usual encoding and with any usual delimiter.

    Raises:
        ValueError: it is too large, no text, no CSV, or has one column.
    """
    what = f"{name} was not taken"
    if len(data) > MAX_FILE_BYTES:
        raise_if(
            what,
            [
                f"{len(data) / 2**20:,.1f} MB is too large; at most "
                f"{MAX_UPLOAD_MEGABYTES} MB are taken"
            ],
        )
    content, encoding = _decoded(data, what)
    delimiter = _delimiter_of(content)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        columns = tuple(cell.strip() for cell in next(reader, []))
        width = len(columns)
        rows = [
            (row + [""] * (width - len(row)))[:width]
            for row in reader
            if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise ValueError(
            f"{what}: line {reader.line_num:,} is no CSV ({error})"
        ) from None
    if not 2 <= width <= MAX_COLUMNS:
        found = ", ".join(repr(cell[:30]) for cell in columns[:8])
        raise ValueError(
            f"{what}: its first line must name a column of texts and one of "
            f"labels. Found: {found or 'nothing'}."
        )
    return Table(columns, rows, encoding, delimiter)


def guess_columns(table: Table) -> tuple[int, int]:
    """The columns of the texts and of the labels, by name or by content."""
    names = [name.lower() for name in table.columns]
    some = table.rows[:LOOKED_AT]

    def length(column: int) -> int:
        return sum(len(row[column]) for row in some)

    def kinds(column: int) -> int:
        # A column that is empty, or always the same, tells nothing apart.
        found = len({row[column].strip() for row in some} - {""})
        return found if found > 1 else LOOKED_AT + 1

    everyone = range(len(names))
    text = _named(names, TEXTS)
    label = _named(names, LABELS)
    if text is None:
        text = max((c for c in everyone if c != label), key=length)
    if label is None:
        label = min((c for c in everyone if c != text), key=kinds)
    return text, label


def labelled(
    table: Table, text: int, label: int, name: str = "The file"
) -> Upload:
    """The texts of one column with the labels of another.

    Rows that lack one of them are left out and counted; of very many rows
    some are drawn.

    Raises:
        ValueError: everything wrong with what is left, at once.
    """
    if text == label:
        raise ValueError(
            f"{name} was not taken: texts and labels are the same column"
        )
    pairs = [
        (" ".join(row[text].split()), row[label].strip()) for row in table.rows
    ]
    whys = {
        "without a text": [not words for words, _ in pairs],
        "without a label": [not kind for _, kind in pairs],
        f"with a text of over {MAX_CHARACTERS:,} characters": [
            len(words) > MAX_CHARACTERS for words, _ in pairs
        ],
    }
    good = [
        pair
        for pair, *wrong in zip(pairs, *whys.values(), strict=True)
        if not any(wrong)
    ]
    left_out = {why: sum(rows) for why, rows in whys.items() if any(rows)}
    problems = _wrong_classes([kind for _, kind in good])
    if len(good) < FEWEST_ROWS:
        more = "".join(f"; {n:,} {why}" for why, n in left_out.items())
        problems.insert(
            0,
            f"{len(good)} rows with a text and a label{more}; at least "
            f"{FEWEST_ROWS} are needed",
        )
    raise_if(f"{name} was not taken", problems)
    sampled = len(good) if len(good) > MAX_ROWS else None
    if sampled:
        drawn = np.random.default_rng(0).permutation(sampled)[:MAX_ROWS]
        good = [good[row] for row in sorted(drawn)]
    classes = tuple(sorted({kind for _, kind in good}))
    number = {kind: i for i, kind in enumerate(classes)}
    labels = np.array([number[kind] for _, kind in good], "int32")
    corpus = Split([words for words, _ in good], labels)
    return Upload(corpus, classes, left_out, sampled)


def split_upload(corpus: Split, classes: tuple[str, ...]) -> Splits:
    """Drops duplicates and cuts the rest as the tasks' corpora are cut.

    Raises:
        ValueError: too little is left of a class.
    """
    unique = drop_duplicates(corpus)
    counts = np.bincount(unique.labels, minlength=len(classes))
    raise_if(
        "The texts were not taken",
        [
            f"{label!r} has {count} different texts; at least "
            f"{FEWEST_OF_A_CLASS} are needed"
            for label, count in zip(classes, counts, strict=True)
            if count < FEWEST_OF_A_CLASS
        ],
    )
    return split(unique)


def _decoded(data: bytes, what: str) -> tuple[str, str]:
    """A file's text, and the name of its encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        ways = {"utf-16": "UTF-16"}
    else:
        ways = {"utf-8-sig": "UTF-8", "cp1252": "Windows-1252"}
    for codec, name in ways.items():
        try:
            content = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if any(unicodedata.category(c) == "Cc" for c in set(content) - _SPACES):
            raise ValueError(f"{what}: it is no text file")
        return content, name
    raise ValueError(f"{what}: it is no text in UTF-8, UTF-16 or Windows-1252")


_SPACES = set("\t\n\r\x0b\x0c\x85")


def _delimiter_of(content: str) -> str:
    """What cuts the first lines into rows of one width."""

    def fit(delimiter: str) -> tuple[float, int]:
        lines = io.StringIO(content[: 1 << 18], newline="")
        widths: list[int] = []
        try:
            for row in csv.reader(lines, delimiter=delimiter):
                widths += [len(row)] if row else []
                if len(widths) == LOOKED_AT:
                    break
        except csv.Error:
            pass
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(w == widths[0] for w in widths) / len(widths), widths[0]

    return max(DELIMITERS, key=fit)


def _named(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The column with the first of some names, if there is one."""
    return next((names.index(name) for name in known if name in names), None)


def _wrong_classes(names: list[str]) -> list[str]:
    classes = {name for name in names if name}
    if len(classes) < 2 and names:
        one = f" ({classes.pop()[:MAX_LABEL]!r})" if classes else ""
        return [f"there is one class only{one}; at least 2 are needed"]
    problems = []
    if long := [name for name in classes if len(name) > MAX_LABEL]:
        problems.append(
            f"{len(long):,} labels have over {MAX_LABEL} characters"
        )
    if len(classes) > MAX_CLASSES:
        problems.append(
            f"{len(classes):,} different labels; at most {MAX_CLASSES} are "
            "taken"
        )
    return problems
