"""A visitor's CSV as labelled texts: data only, checked before use."""

import csv
import io
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.serve.limits import (
    MAX_CHARACTERS,
    MAX_CLASSES,
    MAX_FILE_BYTES,
    MAX_UPLOAD_MEGABYTES,
)
from app.texts.data import Split, Splits, draw, drop_duplicates, split
from keras_lora.errors import raise_if

MAX_ROWS = 5_000
FEWEST_ROWS = 40
FEWEST_OF_A_CLASS = 8
FEWEST_DRAWN = 50
"""Rows of a class that are drawn at least, if it has them."""
MAX_LABEL = 40
"""Characters of a label."""
MAX_COLUMNS = 200

WHYS: dict[str, Callable[[str, str], bool]] = {
    "without a text": lambda words, kind: not words,
    "without a label": lambda words, kind: not kind,
    f"with a text of over {MAX_CHARACTERS:,} characters": (
        lambda words, kind: len(words) > MAX_CHARACTERS
    ),
}
"""Why a row is left out."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 200
"""Rows by which the delimiter and the columns are told."""
MOST_LABELS = 1_000
"""Different labels that are counted: where there are more, no more is read."""

TEXTS = ("text", "sentence", "review", "message", "comment", "content", "body")
LABELS = ("label", "class", "category", "sentiment", "topic", "target", "tag")
"""What the columns are often called, the first of them first."""


@dataclass(frozen=True)
class Table:
    """A CSV whose lines are read as they are asked for.

    As lists, the cells of a small file may take a thousand times its size.

    Args:
        columns: the first line: what the columns are called.
        content: the whole file.
        encoding: how its bytes were read, for people.
        delimiter: what stands between its cells.
        first: the first rows, as many as are looked at.
        count: how many rows there are.
    """

    columns: tuple[str, ...]
    content: str = field(repr=False)
    encoding: str
    delimiter: str
    first: list[list[str]] = field(default_factory=list)
    count: int = 0

    def rows(self) -> Iterator[list[str]]:
        """The lines but the first that are not empty, as long as `columns`."""
        lines = _lines_of(self.content, self.delimiter)
        next(lines, None)
        return _rows_of(lines, len(self.columns))


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
    lines = _lines_of(content, delimiter)
    first, count = [], 0
    try:
        columns = tuple(cell.strip() for cell in next(lines, []))
        _check_columns(columns, what)
        for count, row in enumerate(_rows_of(lines, len(columns)), 1):
            if count <= LOOKED_AT:
                first.append(row)
    except csv.Error as error:
        raise ValueError(
            f"{what}: line {lines.line_num:,} is no CSV ({error})"
        ) from None
    return Table(columns, content, encoding, delimiter, first, count)


def guess_columns(table: Table) -> tuple[int, int]:
    """The columns of the texts and of the labels, by name or by content."""
    names = [name.lower() for name in table.columns]
    some = table.first

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
    some are drawn, of each label as many as is its share, and enough of a
    rare one.

    Raises:
        ValueError: everything wrong with what is left, at once.
    """
    if text == label:
        raise ValueError(
            f"{name} was not taken: texts and labels are the same column"
        )
    found, numbers, kinds = Counter[str](), dict[str, int](), array("i")
    for _, kind in _good(table, text, label, found):
        kinds.append(numbers.setdefault(kind, len(numbers)))
        if len(numbers) > MOST_LABELS:
            break
    count = len(kinds)
    left_out = {why: found[why] for why in WHYS if found[why]}
    problems = _wrong_classes(set(numbers))
    if count < FEWEST_ROWS:
        more = "".join(f"; {n:,} {why}" for why, n in left_out.items())
        problems.insert(
            0,
            f"{count} rows with a text and a label{more}; at least "
            f"{FEWEST_ROWS} are needed",
        )
    raise_if(f"{name} was not taken", problems)
    sampled = count if count > MAX_ROWS else None
    drawn = set(draw(np.array(kinds), MAX_ROWS, fewest=FEWEST_DRAWN).tolist())
    good = [
        pair
        for row, pair in enumerate(_good(table, text, label, Counter()))
        if row in drawn
    ]
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


def _lines_of(content: str, delimiter: str) -> Any:
    """A reader of the whole file, the first line included."""
    return csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)


def _rows_of(lines: Iterable[list[str]], width: int) -> Iterator[list[str]]:
    """Lines that are not empty, cut or filled up to a width."""
    for row in lines:
        if any(map(str.strip, row)):
            yield (row + [""] * (width - len(row)))[:width]


def _check_columns(columns: Sequence[str], what: str) -> None:
    """Looks at the first line, by whose width all others are cut."""
    if len(columns) > MAX_COLUMNS:
        raise ValueError(
            f"{what}: its first line names {len(columns):,} columns; at most "
            f"{MAX_COLUMNS} are taken"
        )
    if len(columns) < 2:
        found = ", ".join(repr(cell[:30]) for cell in columns)
        raise ValueError(
            f"{what}: its first line must name a column of texts and one of "
            f"labels. Found: {found or 'nothing'}."
        )


def _good(
    table: Table, text: int, label: int, left_out: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Each row's text and label; counts the rows that are left out."""
    for row in table.rows():
        pair = " ".join(row[text].split()), row[label].strip()
        wrong = [why for why, is_wrong in WHYS.items() if is_wrong(*pair)]
        if wrong:
            left_out.update(wrong)
        else:
            yield pair


def _named(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The column with the first of some names, if there is one."""
    return next((names.index(name) for name in known if name in names), None)


def _wrong_classes(classes: set[str]) -> list[str]:
    if len(classes) == 1:
        (one,) = classes
        return [
            f"there is one class only ({one[:MAX_LABEL]!r}); at least 2 are "
            "needed"
        ]
    if len(classes) > MOST_LABELS:
        return [
            f"over {MOST_LABELS:,} different labels; at most {MAX_CLASSES} "
            "are taken"
        ]
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
