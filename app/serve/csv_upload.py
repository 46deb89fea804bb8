"""A visitor's CSV as labelled texts: data only, checked before use."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from app.serve.csv_table import Table, guess_columns, read_table
from app.serve.limits import MAX_CHARACTERS, MAX_CLASSES
from app.texts.data import Split, Splits, draw, drop_duplicates, split
from keras_lora.errors import raise_if

MAX_ROWS = 5_000
FEWEST_ROWS = 40
FEWEST_OF_A_CLASS = 8
FEWEST_DRAWN = 50
"""Rows of a class that are drawn at least, if it has them."""
MAX_LABEL = 40
"""Characters of a label."""

WHYS: dict[str, Callable[[str, str], bool]] = {
    "without a text": lambda words, kind: not words,
    "without a label": lambda words, kind: not kind,
    f"with a text of over {MAX_CHARACTERS:,} characters": (
        lambda words, kind: len(words) > MAX_CHARACTERS
    ),
}
"""Why a row is left out."""

MOST_LABELS = 1_000
"""Different labels that are counted: where there are more, no more is read."""


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
