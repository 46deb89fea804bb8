"""Answers that a visitor set right, to be learned from."""

from dataclasses import replace

import numpy as np

from app.learn.training import Settings
from app.serve.job import Job
from app.serve.served import Served
from app.texts.data import Split, Splits

WEIGHT = 4
"""Times that a correction stands among the training texts."""

SETTINGS = Settings(epochs=1, learning_rate=5e-4)
"""The adapter goes on from what it knows: gently, and not for long."""


def job_of(served: Served, splits: Splits, corrections: dict[str, int]) -> Job:
    """Goes on with an adapter, on texts of its task and the corrections.

    Args:
        served: the adapter that was wrong.
        splits: texts of its task, so that it keeps what it knows.
        corrections: texts with the number of their right label.
    """
    given = Split(
        list(corrections), np.array(list(corrections.values()), "int32")
    )
    train = Split(
        splits.train.texts + given.texts * WEIGHT,
        np.concatenate([splits.train.labels, np.tile(given.labels, WEIGHT)]),
    )
    return Job(
        f"{served.title} corrected",
        served.labels,
        replace(splits, train=train),
        replace(SETTINGS, method=method_of(served)),
        start=served.file,
        corrections=given,
    )


def method_of(served: Served) -> str:
    """The method of an adapter, as `Settings` names it."""
    return served.info.methods[0] if served.info.methods else "lora"
