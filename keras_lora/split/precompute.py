"""The frozen part of a model, run once over all rows."""

import os
from pathlib import Path
from typing import Any

import keras

from keras_lora.errors import raise_if
from keras_lora.settings import is_int, positive_int, wrong_choice
from keras_lora.split import folder as folders
from keras_lora.split.buckets import Bucket
from keras_lora.split.dataset import Precomputed
from keras_lora.split.source import ACTION, Source
from keras_lora.split.work import UNKNOWN, Work

DTYPES = ("float32", "float16")


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
            are needed; None for memory. It is whole or not there. Links are
            followed; a new one is no mount point and not the working
            directory. One that is there already is used if it was made by the
            same weights of the same inputs, labels and settings; then only the
            inputs are read, and the first batch is run to compare.
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
            the folder holds something else or cannot be made. What was there
            is as it was.

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


def in_folder(work: Work, folder: Path) -> list[Bucket]:
    """Features from a folder, which is made if it is not there."""
    folder = folders.place_of(folder)
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
