"""What a row's outputs mean: labels and their probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lora.files.format import AdapterInfo
from keras_lora.model import surgery

SHARES = ("softmax", "sigmoid")
"""Activations whose outputs are probabilities already."""


@dataclass(frozen=True)
class Prediction:
    """A row's answer.

    Attributes:
        outputs: What came out: an array, or a nest of them, without the axis
            of the batch.
        info: What the adapter's file says; None for the base.
        shares: Whether the outputs are probabilities already.
    """

    outputs: Any
    info: AdapterInfo | None = None
    shares: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, where the adapter has some."""
        return () if self.info is None else self.info.labels

    @property
    def probabilities(self) -> np.ndarray | None:
        """One a label, float64; None where there are none.

        Logits become those of a softmax, or where one number tells two labels
        apart of a sigmoid.
        """
        if not self.labels or not isinstance(self.outputs, np.ndarray):
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


def gives_shares(info: AdapterInfo, base: Any) -> bool:
    """Whether an adapter's outputs are probabilities already.

    Args:
        info: What its file says.
        base: The base, whose own outputs come out where there is no head.
    """
    if info.head is not None and info.head["layers"]:
        last = info.head["layers"][-1]
        given = last["config"].get("activation")
        return last["class"] == "Softmax" or given in SHARES
    if not surgery.has_graph(base):
        return False
    layer, _, _ = surgery.graph_source(base.outputs[0])
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", None)
    return type(layer).__name__ == "Softmax" or name in SHARES
