"""What the service answers: probabilities, and what they took."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answer:
    """One text's probabilities, and what they took.

    Args:
        probabilities: one for each label.
        switch_ms: to have the adapter in a slot and its number known.
        call_ms: from text to output: tokens, forward pass, head.
        brought_in: whether the adapter had to be copied into a slot.
        tokens: how many tokens the base read.
    """

    probabilities: np.ndarray
    switch_ms: float
    call_ms: float
    brought_in: bool
    tokens: int


@dataclass(frozen=True)
class Mixed:
    """The same rows answered together and one adapter at a time.

    Args:
        together: probabilities of each row, from one forward pass.
        apart: the same from one call an adapter.
        together_ms, apart_ms: what each way took, warmed up: the median of
            some turns.
        difference: the largest between any two outputs.
        calls: how many calls the second way took.
    """

    together: list[np.ndarray]
    apart: list[np.ndarray]
    together_ms: float
    apart_ms: float
    difference: float
    calls: int
