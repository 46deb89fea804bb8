"""Functions that a command line names."""

import numpy as np

from tests.banks import rows, sequential


def with_words():
    """A base, and what makes numbers of texts."""
    return sequential(), lambda texts: np.stack(
        [rows(8)[len(text) % 8] for text in texts]
    )


def alone():
    return sequential()


def nothing():
    return "a text"
