"""What is run once: batches in, rows of arrays by their shapes out."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lora.errors import raise_if, shorten
from keras_lora.model import graphs, surgery
from keras_lora.model.fingerprint import WHOLE_BELOW, digest, size_in_bytes
from keras_lora.model.paths import structural_paths
from keras_lora.split.buckets import Bucket, Buckets
from keras_lora.split.dataset import STEP, Layout
from keras_lora.split.folder import DTYPES
from keras_lora.split.source import ACTION, Batch, Hashes, Source, to_array

NEAR = 1e-3
"""What features computed again may differ by, as a share of the largest."""
Group = tuple[np.ndarray, list[np.ndarray]]
"""Which rows of all, and their arrays, which are of one shape."""
LABEL = "a label"

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
        leaves[: len(names)] = map(self.kept, names, leaves)
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
        """A feature as it is kept."""
        if leaf.dtype.kind == "V":  # bfloat16 and the like
            leaf = leaf.astype("float32")
        if leaf.dtype.kind != "f":
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
        called = [*names, *[LABEL] * (len(leaves) - len(names))]
        problems = []
        for name, leaf in zip(called, leaves, strict=True):
            if leaf.ndim == 0 or len(leaf) != rows:
                problems.append(f"{name}: shape {leaf.shape} for {rows} rows")
            elif leaf.dtype.str not in DTYPES:
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
        known = graphs.has_graph(self.frozen)
        if known:
            graph = keras.tree.flatten(graphs.graph_outputs(self.frozen))
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
        if graphs.has_graph(self.frozen):
            names = self.names(graphs.graph_outputs(self.frozen))
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
