"""What a row's outputs mean: labels and their probabilities."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lora.files.format import AdapterInfo
from keras_lora.model import graphs

SHARES = ("softmax", "sigmoid")
"""Activations whose outputs are probabilities already."""
SHAPES = ("Dropout", "Flatten", "GetItem", "Identity", "Permute", "Reshape")
"""Layers and operations that leave values what they are."""


@dataclass(frozen=True)
class Prediction:
    """A row's answer.

    Attributes:
        outputs: What came out: an array, or a nest of them, without the axis
            of the batch.
        info: What the adapter's file says; None for the base.
        shares: Whether the outputs are probabilities already; None where
            that cannot be told.
    """

    outputs: Any
    info: AdapterInfo | None = None
    shares: bool | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, where the adapter has some."""
        return () if self.info is None else self.info.labels

    @property
    def probabilities(self) -> np.ndarray | None:
        """One a label, float64; None where there are none to be told.

        Logits become those of a softmax, or where one number tells two labels
        apart of a sigmoid.
        """
        if not self.labels or self.shares is None:
            return None
        if not isinstance(self.outputs, np.ndarray):
            return None
        values = self.outputs.astype("float64")
        if values.ndim != 1:
            return None
        if len(values) == 1:
            if not self.shares:
                values = np.exp(-np.logaddexp(0, -values))
            return np.concatenate([1 - values, values])
        if self.shares:
            return values
        powers = np.exp(values - values.max())
        result: np.ndarray = powers / powers.sum()
        return result

    @property
    def label(self) -> str | None:
        """The likeliest label."""
        shares = self.probabilities
        return None if shares is None else self.labels[int(np.argmax(shares))]


def gives_shares(info: AdapterInfo, base: Any) -> bool | None:
    """Whether an adapter's outputs are probabilities already.

    Args:
        info: What its file says.
        base: The base, whose own outputs come out where there is no head.

    Returns:
        None where it cannot be told.
    """
    for entry in reversed(info.head["layers"] if info.head else []):
        if entry["class"] not in SHAPES:
            activation = entry["config"].get("activation")
            return _is_share(activation or entry["class"].lower())
    if not graphs.has_graph(base):
        return None
    last = _last_operation(base.outputs[0])
    activation = getattr(last, "activation", None)
    name = type(last).__name__.lower()
    return _is_share(getattr(activation, "__name__", name))


def _last_operation(tensor: Any) -> Any:
    """What gave a symbolic tensor its values, in models of models too."""
    layer, number, inputs = graphs.graph_source(tensor)
    if graphs.has_graph(layer):
        return _last_operation(layer.outputs[number])
    if type(layer).__name__ in SHAPES and len(inputs) == 1:
        return _last_operation(inputs[0])
    return layer


def _is_share(name: str) -> bool | None:
    """Whether an activation gives probabilities; None where it is foreign."""
    if name in SHARES:
        return True
    return False if hasattr(keras.activations, name) else None
