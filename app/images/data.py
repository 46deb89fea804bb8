"""Fashion-MNIST: ten kinds of clothes, and pictures as the base takes them."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from app.images.idx import IdxError, read_idx

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the files."""
LABELS = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SIDE = 28
PARTS = {"train": 60_000, "t10k": 10_000}
HOW_TO_GET = (
    "On Debian and Ubuntu `apt install dataset-fashion-mnist` puts the files "
    f"into {FOLDER}. Elsewhere take the four .gz files from the data set's "
    "authors, and name their folder."
)


class DatasetError(RuntimeError):
    """The data set is not there, or its files are broken."""


@dataclass(frozen=True)
class Split:
    """Grey images, uint8 (n, 28, 28), and their labels, int32 (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """The three parts; no image is in two of them."""

    train: Split
    validation: Split
    test: Split


def load_fashion(
    train: int = 2000,
    validation: int = 1000,
    test: int = 2000,
    *,
    folder: Path | str | None = None,
    seed: int = 0,
) -> Splits:
    """Images drawn at random; those of test from the test files alone.

    Args:
        train: How many to train on.
        validation: How many to choose settings by, from the same files.
        test: How many to report.
        folder: Of the four files; None for the one of Debian's package.
        seed: Of the draw. The same seed draws the same images.

    Raises:
        DatasetError: Files missing or broken, all named, and how to get them.
        ValueError: More images asked for than there are.
    """
    known, held_out = read_files(Path(FOLDER if folder is None else folder))
    rng = np.random.default_rng(seed)
    wrong = [
        f"{name} must be above 0. Received: {name}={count!r}"
        for name, count in (
            ("train", train),
            ("validation", validation),
            ("test", test),
        )
        if count < 1
    ]
    if train + validation > len(known):
        wrong.append(f"{train} + {validation} of {len(known)} to train on")
    if test > len(held_out):
        wrong.append(f"{test} of {len(held_out)} to test on")
    if wrong:
        raise ValueError("load_fashion: " + "; ".join(wrong))
    rows = rng.permutation(len(known))[: train + validation]
    return Splits(
        _take(known, rows[:train]),
        _take(known, rows[train:]),
        _take(held_out, rng.permutation(len(held_out))[:test]),
    )


def read_files(folder: Path) -> tuple[Split, Split]:
    """All images to train on, and all to test on."""
    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in PARTS
        for kind in ("images-idx3", "labels-idx1")
    ]
    if missing := [n for n in names if not (folder / n).is_file()]:
        raise DatasetError(
            f"Fashion-MNIST is not in {folder}: {', '.join(missing)} "
            f"missing. {HOW_TO_GET}"
        )
    splits, wrong = [], []
    for (part, most), images, labels in zip(
        PARTS.items(), names[::2], names[1::2], strict=True
    ):
        found = []
        for name, inner in ((images, (SIDE, SIDE)), (labels, ())):
            try:
                found.append(read_idx(folder / name, inner, most))
            except IdxError as error:
                wrong.append(str(error))
        if len(found) == 2:
            wrong += _misfits(part, *found)
            splits.append(Split(found[0], found[1].astype("int32")))
    if wrong:
        raise DatasetError(
            f"Fashion-MNIST in {folder} is broken: {'; '.join(wrong)}. "
            f"{HOW_TO_GET}"
        )
    return splits[0], splits[1]


def _misfits(part: str, images: np.ndarray, labels: np.ndarray) -> list[str]:
    wrong = []
    if len(images) != len(labels):
        wrong.append(f"{part}: {len(images)} images and {len(labels)} labels")
    if labels.max() >= len(LABELS):
        wrong.append(f"{part}: a label {labels.max()}, of 0 to 9")
    return wrong


def _take(split: Split, rows: np.ndarray) -> Split:
    return Split(split.images[rows], split.labels[rows])


def pictures(images: np.ndarray, size: int) -> np.ndarray:
    """Grey images as the base takes them, uint8 (n, size, size, 3).

    They are enlarged bilinearly, and red, green and blue are the grey value.
    """
    made = np.empty((len(images), size, size, 3), "uint8")
    for start in range(0, len(images), 500):
        few = images[start : start + 500, ..., None].astype("float32")
        grey = keras.ops.image.resize(
            few, (size, size), data_format="channels_last"
        )
        grey = keras.ops.convert_to_numpy(grey)
        made[start : start + 500] = np.rint(grey)
    return made
