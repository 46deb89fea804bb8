"""The frozen part of a model, run once over all rows."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lora.errors import raise_if, shorten
from keras_lora.model import surgery
from keras_lora.model.fingerprint import WHOLE_BELOW, digest, size_in_bytes
from keras_lora.model.paths import structural_paths
from keras_lora.settings import is_int, positive_int, wrong_choice
from keras_lora.split import folder as folders
from keras_lora.split.buckets import Bucket, Buckets
from keras_lora.split.dataset import STEP, Layout, Precomputed
from keras_lora.split.source import ACTION, Batch, Hashes, Source, to_array

DTYPES = ("float32", "float16")
NEAR = 1e-3
"""What features computed again may differ by, as a share of the largest."""
Group = tuple[np.ndarray, list[np.ndarray]]
"""Which rows of all, and their arrays, which are of one shape."""


def precompute(
    frozen: Any,
    x: Any,
    folder: str | os.PathLike[str] | None = None,
    *,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int = 32,
    dtype: str = "float32",
    mask: str | None = None,
    shuffle: bool = True,
    seed: int | None = 0,
    verbose: int | str = 1,
) -> Precomputed:
    """Runs the frozen part of a model once, and keeps what it gives for `fit`.

    Rows are kept with rows of their own shape, and a batch has rows of one
    shape, so that nothing is padded anew in training.

    Args:
        frozen: The first part that `split` gave, or any model.
        x: What the model takes: arrays, a `tf.data.Dataset` of batches or a
            `keras.utils.PyDataset`; the latter two with labels and weights of
            rows as `fit` takes them. Batches may have different lengths.
        folder: Where the features are kept, in files that are read as they
            are needed; None for memory. It is whole or not there. One that is
            there already is used if it was made by the same weights of the
            same inputs, labels and settings; then only the inputs are read,
            and the first batch is run to compare.
        y: Labels beside arrays.
        sample_weight: Weights of rows beside arrays and labels.
        batch_size: Rows at a time, here (of arrays) and in training.
        dtype: In which floating-point features are kept: `"float32"`, or
            `"float16"` for half the room. Others are kept as they are.
        mask: The name of a feature that is not zero where a row has content,
            such as `"padding_mask"`. Rows are cut to their own content, to
            multiples of 8, and so is what has their length: labels a position
            too. Only for a model that does not look beyond the mask.
        shuffle: Whether batches are shuffled, anew after each epoch.
        seed: Of the shuffling; None for another one each time.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `keras.utils.PyDataset` for `fit` and `evaluate`. Its `in_order()`
        has the rows as they came, for `predict`; `shuffled(seed)` in another
        order; `nbytes` is what they take.

    Raises:
        ValueError: A setting or the inputs are not as said above, the model
            gives no row for each row, values are too large for `dtype`, or
            the folder holds something else. What was there is as it was.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu")])
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(1)])
    frozen, trainable = keras_lora.split(model)
    x, y = np.ones((64, 8)), np.ones((64, 1))
    features = keras_lora.precompute(frozen, x, y=y, verbose=0)
    trainable.compile("adam", "mse")
    trainable.fit(features, epochs=3, verbose=0)
    ```
    """
    problems = positive_int("batch_size", batch_size)
    problems += wrong_choice("dtype", dtype, DTYPES)
    if seed is not None and not (is_int(seed) and seed >= 0):
        problems.append(f"`seed` must be an int of 0 or more. Received: {seed}")
    if not callable(frozen) or not isinstance(frozen, keras.Model):
        problems.append(f"a Keras model is needed. Received: {frozen!r}")
    raise_if(ACTION, problems)
    source = Source(x, y, sample_weight, batch_size)
    work = Work(frozen, source, dtype, mask, 0 if verbose == 0 else 1)
    if folder is None:
        buckets = work.fill(None)[0]
    else:
        buckets = in_folder(work, Path(folder))
    return Precomputed(
        buckets, work.layout, batch_size, shuffle=shuffle, seed=seed
    )


def in_folder(work: "Work", folder: Path) -> list[Bucket]:
    """Features from a folder, which is made if it is not there."""
    if not folders.is_there(folder):
        with folders.new_folder(folder) as part:
            buckets, made_of = work.fill(part)
            folders.write_index(part, made_of, buckets)
            del buckets  # their files are about to move
    found = folders.read_index(folder)
    buckets = folders.read_buckets(folder, found)
    if work.layout is UNKNOWN:
        problems = folders.different(found, work.made_of())
        if not problems:
            problems = work.differing(buckets)
        raise_if(
            f"{folder} holds other features, and was not changed", problems
        )
    return buckets


UNKNOWN = Layout((), False)


@dataclass
class Work:
    """What is run, on what, and how its results are kept."""

    frozen: Any
    source: Source
    dtype: str
    mask: str | None
    verbose: int
    layout: Layout = UNKNOWN

    def fill(self, folder: Path | None) -> tuple[list[Bucket], dict[str, Any]]:
        """Runs all batches; the buckets, and what they were made of."""
        buckets, count = Buckets(folder), 0
        hashes = Hashes(), Hashes()
        total = len(self.source) or None
        bar = keras.utils.Progbar(total, verbose=self.verbose)
        number = 0
        for number, batch in enumerate(self.source, 1):
            if folder is not None:
                hashes[0].update(batch[0])
                hashes[1].update(batch[1:])
            for rows, arrays in self.groups(batch, count):
                buckets.append(rows, arrays)
                count = max(count, int(rows[-1]) + 1)
            bar.update(number, finalize=number == total)
        raise_if(ACTION, [] if number else ["there are no batches"])
        if total is None:
            bar.update(number, finalize=True)
        described = self.described(hashes) if folder is not None else {}
        return buckets.finish(), described

    def groups(self, batch: Batch, start: int) -> Iterator[Group]:
        """The rows of one batch, those of one shape together."""
        features = self.run(batch[0])
        parts = [p for p in (features, *batch[1:]) if p is not None]
        names = self.names(features)
        leaves = [to_array(leaf) for leaf in keras.tree.flatten(parts)]
        leaves = [
            self.kept(name, leaf)
            for name, leaf in zip(
                [*names, *["a label"] * (len(leaves) - len(names))],
                leaves,
                strict=True,
            )
        ]
        self.check(leaves, names, batch[0])
        self.lay_out(parts)
        rows = np.arange(start, start + len(leaves[0]))
        if self.mask is None:
            yield rows, leaves
            return
        yield from self.cut(rows, leaves, names)

    def run(self, x: Any) -> Any:
        """The features of one batch."""
        features = self.frozen.predict_on_batch(x)
        if isinstance(features, list | tuple) and len(features) == 1:
            return features[0]
        return features

    def names(self, features: Any) -> list[str]:
        """What each feature is called in messages and by `mask`."""
        paths = keras.tree.flatten_with_path(features)
        return [".".join(map(str, p)) or "the feature" for p, _ in paths]

    def kept(self, name: str, leaf: np.ndarray) -> np.ndarray:
        """An array as it is kept."""
        if leaf.dtype.kind == "V":  # bfloat16 and the like
            leaf = leaf.astype("float32")
        if name == "a label" or leaf.dtype.kind != "f":
            return leaf
        with np.errstate(over="ignore"):
            found = leaf.astype(self.dtype)
        if self.dtype == "float16" and np.isinf(found).any():
            lost = np.isinf(found) & np.isfinite(leaf)
            problem = f"{name}: values beyond float16; keep float32"
            raise_if(ACTION, [problem] if lost.any() else [])
        return found

    def check(self, leaves: list[np.ndarray], names: list[str], x: Any) -> None:
        """Refuses what cannot be kept by rows."""
        rows = int(keras.tree.flatten(x)[0].shape[0])
        called = [*names, *["a label"] * (len(leaves) - len(names))]
        problems = []
        for name, leaf in zip(called, leaves, strict=True):
            if leaf.ndim == 0 or len(leaf) != rows:
                problems.append(f"{name}: shape {leaf.shape} for {rows} rows")
            elif leaf.dtype.str not in folders.DTYPES:
                problems.append(f"{name}: {leaf.dtype} is not kept")
        if self.mask is not None and self.mask not in names:
            problems.append(
                f"`mask` is no feature. Received: {self.mask!r}. "
                f"Available: {shorten(names)}"
            )
        raise_if(ACTION, problems)

    def lay_out(self, parts: list[Any]) -> None:
        """Notes how arrays make up a batch."""
        if self.layout is not UNKNOWN:
            return
        counts = iter(range(len(keras.tree.flatten(parts))))
        structures = tuple(
            keras.tree.map_structure(lambda _: next(counts), part)
            for part in parts
        )
        self.layout = Layout(structures, self.mask is not None)

    def cut(
        self, rows: np.ndarray, leaves: list[np.ndarray], names: list[str]
    ) -> Iterator[Group]:
        """Rows cut to their own content, by length."""
        mask = leaves[names.index(str(self.mask))]
        problem = f"`mask` needs two axes. Received: shape {mask.shape}"
        raise_if(ACTION, [problem] if mask.ndim != 2 else [])
        length = mask.shape[1]
        follow = self.follow(leaves, names, length)
        content = np.where(mask != 0, np.arange(1, length + 1), 0).max(1)
        lengths = np.maximum(STEP, -(-content // STEP) * STEP)
        for one in np.unique(lengths):
            chosen = np.flatnonzero(lengths == one)
            yield (
                rows[chosen],
                [
                    resized(leaf[chosen], int(one)) if cut else leaf[chosen]
                    for leaf, cut in zip(leaves, follow, strict=True)
                ],
            )

    def follow(
        self, leaves: list[np.ndarray], names: list[str], length: int
    ) -> list[bool]:
        """Which arrays have a row's length as their second axis.

        A feature's that the model leaves open; a label's of that size.
        """
        shapes = [tuple(leaf.shape) for leaf in leaves]
        known = surgery.has_graph(self.frozen)
        if known:
            graph = keras.tree.flatten(surgery.graph_outputs(self.frozen))
            shapes[: len(names)] = [tuple(tensor.shape) for tensor in graph]
        found, problems = [], []
        for number, (leaf, shape) in enumerate(
            zip(leaves, shapes, strict=True)
        ):
            feature = number < len(names) and known
            same = leaf.ndim > 1 and leaf.shape[1] == length
            found.append(same and (shape[1] is None or not feature))
            if feature and None in shape[2:]:
                problems.append(
                    f"{names[number]}: more than one axis is open, and `mask` "
                    "cuts the second only"
                )
        if not found[names.index(str(self.mask))]:
            problems.append(f"{self.mask}: its length is fixed by the model")
        raise_if(ACTION, problems)
        return found

    def made_of(self) -> dict[str, Any]:
        """What features of this would be made of; nothing is run for it."""
        hashes = Hashes(), Hashes()
        for batch in self.source:
            hashes[0].update(batch[0])
            hashes[1].update(batch[1:])
        return self.described(hashes)

    def described(self, hashes: tuple[Hashes, Hashes]) -> dict[str, Any]:
        """What features were made of, as a folder's description has it."""
        names: list[str] = []
        if surgery.has_graph(self.frozen):
            names = self.names(surgery.graph_outputs(self.frozen))
        return {
            "frozen": fingerprint(self.frozen),
            "inputs": hashes[0].hexdigest(),
            "labels": hashes[1].hexdigest(),
            "dtype": self.dtype,
            "mask": self.mask,
            "features": names,
        }

    def differing(self, buckets: list[Bucket]) -> list[str]:
        """Says whether the first batch, run again, gives other features."""
        of_shapes = {bucket.shapes: bucket for bucket in buckets}
        for rows, arrays in self.groups(next(iter(self.source)), 0):
            bucket = of_shapes.get(tuple(tuple(a.shape[1:]) for a in arrays))
            if bucket is None or not np.isin(rows, bucket.rows).all():
                return ["its features have other shapes"]
            at = np.searchsorted(bucket.rows, rows)
            for kept, new in zip(bucket.arrays, arrays, strict=True):
                within = NEAR * max(1e-6, float(np.abs(new).max(initial=0)))
                if kept.dtype != new.dtype or not np.allclose(
                    kept[at].astype("float64"),
                    new.astype("float64"),
                    NEAR,
                    within,
                    equal_nan=True,
                ):
                    return ["the frozen part gives other features now"]
        return []


def resized(array: np.ndarray, length: int) -> np.ndarray:
    """An array whose second axis is cut, or filled up with zeros."""
    missing = length - array.shape[1]
    if missing <= 0:
        return array[:, :length]
    widths = [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, widths)


def fingerprint(model: Any) -> str:
    """A digest of all weights of a model, adapters included."""
    sampled = size_in_bytes(model.weights) >= WHOLE_BELOW
    table = [
        [path, type(layer).__name__]
        + [digest(v, sampled) for v in surgery.tracked_variables(layer)]
        for path, layer in structural_paths(model).items()
    ]
    return hashlib.blake2b(
        json.dumps(table).encode(), digest_size=16
    ).hexdigest()
