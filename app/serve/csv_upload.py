"""A visitor's CSV as labelled texts: data only, checked before use."""

import csv
import io

import numpy as np

from app.serve.limits import MAX_CHARACTERS, MAX_CLASSES, MAX_CSV_BYTES
from app.texts.data import Split, Splits, drop_duplicates, split
from keras_lora.errors import raise_if

MAX_ROWS = 5_000
FEWEST_ROWS = 40
FEWEST_OF_A_CLASS = 8
MAX_LABEL = 40
"""Characters of a label."""


def read_csv(data: bytes, name: str = "The file") -> Split:
    """Reads a CSV with the columns `text` and `label`.

    Returns:
        Texts and labels, with `labels` numbered in alphabetical order; see
        `read_labels` for their names.

    Raises:
        ValueError: everything wrong with it at once.
    """
    return read_labels(data, name)[0]


def read_labels(
    data: bytes, name: str = "The file"
) -> tuple[Split, tuple[str, ...]]:
    """As `read_csv`, with the name of each class."""
    what = f"{name} was not taken"
    if len(data) > MAX_CSV_BYTES:
        raise_if(
            what,
            [
                f"{len(data) / 1e6:,.1f} MB is too large; at most "
                f"{MAX_CSV_BYTES / 1e6:.0f} MB are taken"
            ],
        )
    rows = _rows(data, what)
    texts = [" ".join(text.split()) for text, _ in rows]
    names = [label.strip() for _, label in rows]
    problems = _wrong_rows(texts, names) + _wrong_classes(names)
    raise_if(what, problems)
    classes = tuple(sorted(set(names)))
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[label] for label in names], "int32")
    return Split(texts, labels), classes


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


def _rows(data: bytes, what: str) -> list[tuple[str, str]]:
    """(text, label) of each row that is not empty."""
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what}: it is not UTF-8 text (byte {error.start:,})"
        ) from None
    if "\0" in content:
        raise ValueError(f"{what}: it is no text file")
    reader = csv.reader(io.StringIO(content, newline=""))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        missing = [n for n in ("text", "label") if n not in header]
        if missing:
            found = ", ".join(repr(cell[:30]) for cell in header[:8])
            raise ValueError(
                f"{what}: its first line must name the columns text and "
                f"label. Missing: {', '.join(missing)}. "
                f"Found: {found or 'nothing'}."
            )
        text, label = header.index("text"), header.index("label")
        width = max(text, label) + 1
        rows = [row + [""] * (width - len(row)) for row in reader if any(row)]
    except csv.Error as error:
        raise ValueError(
            f"{what}: line {reader.line_num:,} is no CSV ({error})"
        ) from None
    return [(row[text], row[label]) for row in rows]


def _wrong_rows(texts: list[str], names: list[str]) -> list[str]:
    problems = []
    if len(texts) > MAX_ROWS:
        problems.append(f"{len(texts):,} rows; at most {MAX_ROWS:,} are taken")
    if len(texts) < FEWEST_ROWS:
        problems.append(f"{len(texts)} rows; at least {FEWEST_ROWS} are needed")
    for wrong, said in (
        ([not text for text in texts], "have no text"),
        ([not name for name in names], "have no label"),
        (
            [len(text) > MAX_CHARACTERS for text in texts],
            f"have a text of over {MAX_CHARACTERS:,} characters",
        ),
        (
            [len(name) > MAX_LABEL for name in names],
            f"have a label of over {MAX_LABEL} characters",
        ),
    ):
        if count := sum(wrong):
            # The header is line 1.
            problems.append(
                f"{count:,} rows {said}, the first is row "
                f"{wrong.index(True) + 2:,}"
            )
    return problems


def _wrong_classes(names: list[str]) -> list[str]:
    classes = {name for name in names if name}
    if len(classes) < 2 and names:
        one = f" ({classes.pop()[:MAX_LABEL]!r})" if classes else ""
        return [f"there is one class only{one}; at least 2 are needed"]
    if len(classes) > MAX_CLASSES:
        return [
            f"{len(classes):,} different labels; at most {MAX_CLASSES} are "
            "taken"
        ]
    return []
