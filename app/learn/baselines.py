"""What is reached without fine-tuning, on the same texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from app.learn.batches import predict_texts
from app.texts.base import Tokenizer
from app.texts.data import Splits

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of `C` that the validation texts choose from."""

NEVER = -1e9
"""A logit whose probability is 0 beside any other."""


@dataclass(frozen=True)
class Probe:
    """A linear head on the frozen base's features.

    Args:
        accuracy: on the test texts, from 0 to 1.
        kernel: float32 (features, classes).
        bias: float32 (classes,). The softmax of `x @ kernel + bias` is the
            probability of each class.
    """

    accuracy: float
    kernel: np.ndarray
    bias: np.ndarray


def frozen_probe(
    base: keras.Model,
    splits: Splits,
    tokenizer: Tokenizer,
    each: Callable[[], None] = lambda: None,
    classes: int | None = None,
) -> Probe:
    """A logistic regression on the frozen base's features.

    Args:
        base, splits, tokenizer: what is measured, and on what.
        each: called before each batch; what it raises ends the work.
        classes: how many labels there are; None for those of the texts.
    """
    train, validation, test = (
        predict_texts(base, part.texts, tokenizer, each=each)
        for part in (splits.train, splits.validation, splits.test)
    )
    accuracy, pipeline = _best(
        [StandardScaler()], splits, train, validation, test
    )
    if classes is None:
        parts = (splits.train, splits.validation, splits.test)
        classes = 1 + max(int(part.labels.max()) for part in parts)
    return Probe(accuracy, *_linear(*pipeline, classes))


def _linear(
    scaler: StandardScaler, classifier: LogisticRegression, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do both steps at once, with a column a label.

    A label that the training texts lack is never given.
    """
    kernel, bias = classifier.coef_.T, classifier.intercept_
    if kernel.shape[1] == 1:  # of two classes, the second one's odds
        kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
        bias = np.concatenate([np.zeros_like(bias), bias])
    kernel = kernel / scaler.scale_[:, None]
    bias = bias - scaler.mean_ @ kernel
    kernels = np.zeros((len(kernel), classes), "float32")
    biases = np.full(classes, NEVER, "float32")
    kernels[:, classifier.classes_] = kernel
    biases[classifier.classes_] = bias
    return kernels, biases


def bag_of_words(splits: Splits) -> float:
    """Test accuracy of a logistic regression on TF-IDF of words and pairs."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = words.fit_transform(splits.train.texts)
    validation = words.transform(splits.validation.texts)
    test = words.transform(splits.test.texts)
    accuracy, _ = _best([], splits, train, validation, test)
    return accuracy


def _best(
    scaling: list, splits: Splits, train: Any, validation: Any, test: Any
) -> tuple[float, Pipeline]:
    """What does best in validation, with its accuracy on the test texts."""
    scores = []
    for strength in STRENGTHS:
        classifier = make_pipeline(
            *scaling, LogisticRegression(C=strength, max_iter=2000)
        )
        classifier.fit(train, splits.train.labels)
        score = classifier.score(validation, splits.validation.labels)
        scores.append((score, classifier))
    winner = scores[int(np.argmax([score for score, _ in scores]))][1]
    return float(winner.score(test, splits.test.labels)), winner
