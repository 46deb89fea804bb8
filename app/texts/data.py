"""Texts with labels: reading the corpora and splitting them."""

import html
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """Texts and their labels (int32, one each), in the same order."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Splits:
    """The three parts of a corpus; no text is in two of them."""

    train: Split
    validation: Split
    test: Split


def read_ratings(folder: Path, source: str) -> list[tuple[float, str]]:
    """Reads one of the four rated corpora as (mean rating, text) rows.

    The ratings run from -4 (very negative) to 4 (very positive), each the
    mean of about twenty people's.
    """
    archive = next(folder.rglob("hutto_ICWSM_2014.tar.gz"))
    member = f"hutto_ICWSM_2014/{source}_GroundTruth.txt"
    with tarfile.open(archive, "r:gz") as tar:
        lines = tar.extractfile(member).read().decode("utf-8").splitlines()
    rows = (line.split("\t", 2) for line in lines if line.strip())
    return [(float(mean), _clean(text)) for _, mean, text in rows]


def read_class_folders(folder: Path, classes: Sequence[str]) -> Split:
    """Reads a corpus laid out as `<class>/<number>.txt`, one text a file."""
    texts, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted(folder.rglob(f"{name}/*.txt")):
            texts.append(_clean(path.read_text("utf-8", errors="replace")))
            labels.append(label)
    return Split(texts, np.array(labels, "int32"))


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())


def drop_duplicates(corpus: Split) -> Split:
    """Keeps one copy of each text, so that none is trained on and tested.

    Letter case and spacing do not make a text new. A text that occurs with
    two different labels says nothing about either and goes altogether.
    """
    first: dict[str, int] = {}
    torn = set()
    for row, text in enumerate(corpus.texts):
        key = " ".join(text.lower().split())
        seen = first.setdefault(key, row)
        if corpus.labels[seen] != corpus.labels[row]:
            torn.add(seen)
    return take(corpus, [row for row in first.values() if row not in torn])


def split(corpus: Split, seed: int = 0) -> Splits:
    """Cuts a corpus 80/10/10, every class in the same proportions.

    The cut depends on the corpus and `seed` alone: a file trained in one
    process is tested on the same held-out texts in any other.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list, list, list] = ([], [], [])
    for label in np.unique(corpus.labels):
        rows = rng.permutation(np.flatnonzero(corpus.labels == label))
        n_test = round(len(rows) * TEST_SHARE)
        n_validation = round(len(rows) * VALIDATION_SHARE)
        cuts = (n_test, n_test + n_validation)
        for part, cut in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(cut)
    test, validation, train = (
        take(corpus, rng.permutation(part)) for part in parts
    )
    return Splits(train, validation, test)


def draw(
    labels: np.ndarray, most: int, seed: int = 0, fewest: int = 1
) -> np.ndarray:
    """Draws rows by class, so that a rare one is not lost.

    Args:
        labels: int (rows,), from 0.
        most: how many rows to draw; all where there are no more.
        seed: of the drawing.
        fewest: of each class at least so many, or all that it has, even
            where that makes more than `most`. What is left of `most` goes to
            the classes in proportion.

    Returns:
        The numbers of the rows, in rising order.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    shares = np.minimum(counts, fewest)
    spare, left = counts - shares, max(0, most - shares.sum())
    whole, rest = np.divmod(spare * left, max(1, spare.sum()))
    shares = shares + whole
    missing = left - whole.sum()
    shares[np.argsort(-rest, kind="stable")[:missing]] += 1
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in enumerate(shares)
    ]
    return np.sort(np.concatenate(drawn))


def take(corpus: Split, rows: Sequence[int] | np.ndarray) -> Split:
    """Some rows of a corpus, in the order given."""
    rows = np.asarray(rows, dtype="int64")
    return Split([corpus.texts[i] for i in rows], corpus.labels[rows])
