"""What a client sends, as rows that the base takes."""

from typing import Any

import keras
import numpy as np

from keras_lora.errors import printable, shorten
from keras_lora.serve.errors import RefusedInput


class Reader:
    """Makes rows of JSON, and checks them against the base's inputs.

    Args:
        like: The base's symbolic inputs in their structure.
        takes_texts: Whether a preprocessor makes inputs of texts.
        is_open: Whether it makes them of arrays, too, whose shapes only it
            knows.
        most: Rows a request.
        max_axis: The largest size of an axis that an input leaves open.
    """

    def __init__(
        self,
        like: Any,
        *,
        takes_texts: bool,
        is_open: bool,
        most: int,
        max_axis: int,
    ) -> None:
        self.like, self.takes_texts, self.is_open = like, takes_texts, is_open
        self.most, self.max_axis = most, max_axis
        tensors = keras.tree.flatten(like)
        if isinstance(like, dict):
            self.names = sorted(map(str, like))
        else:
            self.names = [tensor.name for tensor in tensors]
        self.specs = dict(zip(self.names, tensors, strict=True))

    def rows(self, inputs: Any) -> list[Any]:
        """One item a row: a text, or a nest of arrays as the base takes it.

        Args:
            inputs: A list of texts; or an array as lists in lists, batch
                first; or where the base has several inputs, a dict of them.

        Raises:
            RefusedInput: They are something else.
        """
        if isinstance(inputs, str) or not isinstance(inputs, list | dict):
            raise RefusedInput(
                "`inputs` must be a list of texts or rows, or an object of "
                "lists by the names of the base's inputs"
            )
        if not inputs:
            raise RefusedInput("`inputs` is empty")
        if isinstance(inputs, list):
            self._check_count(len(inputs))
            if any(isinstance(item, str) for item in inputs):
                return self._texts(inputs)
        return self._arrays(inputs)

    def _check_count(self, count: int) -> None:
        if count > self.most:
            raise RefusedInput(
                f"{count:,} rows; a request has at most {self.most:,}"
            )

    def _texts(self, inputs: list[Any]) -> list[str]:
        if not self.takes_texts:
            raise RefusedInput("the base takes arrays; texts were given")
        for text in inputs:
            if not isinstance(text, str):
                raise RefusedInput("texts and something else in one list")
            check_text(text)
        return inputs

    def _arrays(self, inputs: Any) -> list[Any]:
        if self.is_open:
            whole = as_array("inputs", inputs, None)
            self._check_count(len(whole))
            return list(whole)
        if not isinstance(inputs, dict) and len(self.names) == 1:
            inputs = {self.names[0]: inputs}
        if not isinstance(inputs, dict) or set(inputs) != set(self.names):
            given = inputs if isinstance(inputs, dict) else ["a list"]
            raise RefusedInput(
                f"the base takes {shorten(self.names)}. Received: "
                f"{printable(shorten(given, 8))[:500]}"
            )
        arrays = {
            name: as_array(name, inputs[name], self.specs[name])
            for name in self.names
        }
        for name, array in arrays.items():
            check_shape(name, array.shape, self.specs[name], self.max_axis)
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise RefusedInput("inputs must have as many rows each")
        count = counts.pop()
        self._check_count(count)
        return [
            keras.tree.pack_sequence_as(
                self.like, [arrays[name][row] for name in self.names]
            )
            for row in range(count)
        ]


UNREADABLE = (
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    RuntimeError,  # more axes than NumPy goes through
)


def check_text(text: str) -> None:
    """Refuses what is no Unicode: half of a pair, as JSON can have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedInput("a text has a surrogate by itself") from error


def as_array(name: str, value: Any, spec: Any) -> np.ndarray:
    """Lists in lists as an array of rows, of the type of an input.

    Args:
        name: Of the input.
        value: The lists.
        spec: The symbolic input; None takes any.
    """
    try:
        # As objects first: an array of texts has the longest one's size a text.
        items = np.asarray(value, object)
        if not set(map(type, items.flat)) <= {int, float, bool}:
            raise RefusedInput(f"{name!r} is no array of numbers")
        array = np.asarray(items.tolist())
    except UNREADABLE as error:
        raise RefusedInput(f"{name!r} is no array of numbers") from error
    if array.dtype.kind not in "biuf" or not array.ndim or not array.size:
        raise RefusedInput(f"{name!r} is no array of numbers")
    dtype = "float32" if spec is None else str(spec.dtype)
    whole = dtype.startswith(("int", "uint", "bool"))
    if whole and array.dtype.kind == "f":
        raise RefusedInput(f"{name!r} takes whole numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = array.astype(dtype if whole else "float32")
    same = np.array_equal(wanted, array) if whole else np.isfinite(wanted).all()
    if not same:
        raise RefusedInput(f"{name!r} has numbers that {dtype} does not hold")
    return wanted


def check_shape(
    name: str, shape: tuple[int, ...], spec: Any, max_axis: int
) -> None:
    """Refuses rows of another shape than an input's, or without measure.

    A model's memory may grow with the square of a length, as attention's does.
    """
    wanted, given = tuple(spec.shape)[1:], shape[1:]
    fits = len(spec.shape) == len(shape) and all(
        n is None or n == m for n, m in zip(wanted, given, strict=True)
    )
    if not fits:
        raise RefusedInput(
            f"{name!r} takes rows of shape {wanted}. Received: {given}"
        )
    for axis, (n, m) in enumerate(zip(wanted, given, strict=True), 1):
        if n is None and m > max_axis:
            raise RefusedInput(
                f"axis {axis} of {name!r} has a size of {m:,}; at most "
                f"{max_axis:,} is served where the base leaves it open"
            )


def signature(row: Any) -> Any:
    """What rows of one batch have in common."""
    if isinstance(row, str):
        return "text"
    return tuple(
        (array.shape, array.dtype.str) for array in keras.tree.flatten(row)
    )
