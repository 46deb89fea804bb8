"""A visitor's CSV as rows of cells: any usual encoding and delimiter."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.serve.limits import MAX_FILE_BYTES, MAX_UPLOAD_MEGABYTES
from keras_lora.errors import raise_if

MAX_COLUMNS = 200
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 200
"""Rows by which the delimiter and the columns are told."""

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


def _named(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The column with the first of some names, if there is one."""
    return next((names.index(name) for name in known if name in names), None)
