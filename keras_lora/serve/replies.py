"""Predictions as JSON, as large as an answer may be."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from fastapi.responses import JSONResponse

from keras_lora.serve.answers import Prediction
from keras_lora.serve.engine import Engine
from keras_lora.serve.errors import RefusedInput

MOST_NUMBERS = 1_000_000
"""Numbers of one answer: about 20 MB of JSON."""


def check_size(engine: Engine, rows: list[Any], names: Sequence[str]) -> None:
    """Refuses rows whose outputs would be more than an answer holds.

    It is an estimate: what a head gives, and what a base gives that has no
    graph or makes its inputs of texts, is counted once it is there.
    """
    numbers = 0
    for row, name in zip(rows, names, strict=True):
        info = engine.info(name)
        if info is None or info.head is None:
            numbers += numbers_of(engine.bank.base, row)
    check_count(numbers)


def check_count(numbers: int) -> None:
    """Refuses more numbers than an answer holds."""
    if numbers > MOST_NUMBERS:
        raise RefusedInput(
            f"the answer would have {numbers:,} numbers; at most "
            f"{MOST_NUMBERS:,} are served: send fewer rows, or ask an adapter "
            "with a head that gives less"
        )


def numbers_of(base: Any, row: Any) -> int:
    """How many numbers the base gives for a row, as far as it is known.

    A length that is open is the row's longest.
    """
    preprocessor = getattr(base, "preprocessor", None)
    lengths = [getattr(preprocessor, "sequence_length", None) or 1]
    if not isinstance(row, str):
        for value in keras.tree.flatten(row):
            lengths += value.shape
    outputs = keras.tree.flatten(getattr(base, "outputs", None) or [])
    return sum(
        math.prod(n or max(lengths) for n in output.shape[1:])
        for output in outputs
    )


def count_of(found: Sequence[Prediction]) -> int:
    """How many numbers came out."""
    return sum(
        np.size(value)
        for one in found
        for value in keras.tree.flatten(one.outputs)
    )


def predictions(
    names: Sequence[str], found: Sequence[Prediction]
) -> JSONResponse:
    """The answers of a request."""
    data = [
        {"index": index, "model": name, **said(one)}
        for index, (name, one) in enumerate(zip(names, found, strict=True))
    ]
    return JSONResponse({"object": "list", "data": data})


def said(prediction: Prediction) -> dict[str, Any]:
    """A row's answer as JSON."""
    for value in keras.tree.flatten(prediction.outputs):
        if not np.isfinite(np.asarray(value, "float64")).all():
            raise RefusedInput("the model gives no finite number for a row")
    shares = prediction.probabilities
    if shares is None:
        outputs = keras.tree.map_structure(
            lambda value: np.asarray(value, "float64").tolist(),
            prediction.outputs,
        )
        return {"outputs": outputs}
    return {
        "label": prediction.label,
        "probabilities": dict(
            zip(prediction.labels, shares.tolist(), strict=True)
        ),
    }
