"""What a bank is given: arrays, or whatever the base's preprocessor takes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.errors import printable, raise_if, shorten

ACTION = "Nothing was predicted"


def has_preprocessor(base: Any) -> bool:
    """Whether a base makes its inputs by itself, as a KerasHub task does."""
    return getattr(base, "preprocessor", None) is not None


def row_count(x: Any, raw: bool = False) -> int:
    """The number of rows in a nest of arrays.

    Args:
        x: Arrays, batch first.
        raw: Whether a preprocessor takes them: lists are rows then, such as
            texts, and tuples and dicts what it has several of.
    """
    values = raw_values(x) if raw else keras.tree.flatten(x)
    problems = [problem for v in values for problem in no_rows(v, raw)]
    raise_if(ACTION, dict.fromkeys(problems))
    counts = {len_of(value) for value in values}
    if len(counts) != 1 or None in counts:
        shapes = shorten((str(shape_of(value)) for value in values), 8)
        raise ValueError(
            "Inputs must be arrays with as many rows each. Received shapes: "
            f"{shapes}"
        )
    return int(counts.pop() or 0)


def raw_values(x: Any) -> list[Any]:
    """The parts of what a preprocessor takes; a list is a part of its own."""
    if isinstance(x, dict):
        return [value for part in x.values() for value in raw_values(part)]
    if isinstance(x, tuple):
        return [value for part in x for value in raw_values(part)]
    return [x]


def no_rows(value: Any, raw: bool) -> list[str]:
    """Says why a value is no array of rows."""
    if isinstance(value, str | bytes) and raw:
        return ["a single text has no rows: give a list of texts"]
    if not raw and is_text(value):
        return [
            "texts are taken by a base with a `preprocessor`, such as a "
            "KerasHub task; this base takes arrays"
        ]
    known = hasattr(value, "shape") or isinstance(value, list | int | float)
    if known or isinstance(value, np.generic):
        return []
    return [f"a value of type {type(value).__name__!r} is no array"]


def is_text(value: Any) -> bool:
    """Whether a value is a text, or an array of them."""
    if isinstance(value, str | bytes):
        return True
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):
        return dtype.kind in "USO"
    return "string" in str(dtype)


def shape_of(value: Any) -> tuple[Any, ...]:
    """The shape of a value as far as it has one."""
    if isinstance(value, list):
        return (len(value),)
    return tuple(getattr(value, "shape", ()))


def len_of(value: Any) -> int | None:
    """How many rows a value has, if it has any."""
    shape = shape_of(value)
    return int(shape[0]) if shape else None


def prepared(base: Any, x: Any, rows: int) -> Any:
    """The base's inputs as arrays, made of `x` by the base's preprocessor.

    It runs as in the base's own `predict`; labels that it makes are left out.
    """
    prepare = getattr(base, "preprocess_samples", base.preprocessor)
    try:
        made = prepare(x)
    except Exception as error:
        why = printable(str(error))[:500]
        raise ValueError(
            f"{ACTION}: the base's preprocessor does not take these inputs "
            f"({why}). Give what it takes; or set `preprocessor` of the base "
            "to None, and give what it makes"
        ) from error
    inputs, *_ = keras.utils.unpack_x_y_sample_weight(made)
    inputs = keras.tree.map_structure(as_array, inputs)
    if row_count(inputs) != rows:
        raise ValueError(
            f"{ACTION}: the base's preprocessor made {row_count(inputs)} rows "
            f"of {rows}"
        )
    return inputs


def as_array(value: Any) -> np.ndarray:
    """A tensor of the backend, or of the preprocessor's, as an array."""
    if ops.is_tensor(value):
        value = ops.convert_to_numpy(value)
    return np.asarray(value)


def one_row_like(x: Any) -> Any:
    """A row of what a preprocessor takes, as where there are none: blank."""
    if isinstance(x, dict):
        return {key: one_row_like(part) for key, part in x.items()}
    if isinstance(x, tuple):
        return tuple(map(one_row_like, x))
    if isinstance(x, list) or is_text(x):
        return [""]
    return np.zeros((1, *shape_of(x)[1:]), getattr(x, "dtype", "float32"))
