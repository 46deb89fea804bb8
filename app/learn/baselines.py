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
) -> Probe:
    """A logistic regression on the frozen base's features.

    `each` is called before each batch; what it raises ends the work.
    """
    train, validation, test = (
        predict_texts(base, part.texts, tokenizer, each=each)
        for part in (splits.train, splits.validation, splits.test)
    )
    accuracy, pipeline = _best(
        [StandardScaler()], splits, train, validation, test
    )
    return Probe(accuracy, *_linear(*pipeline))


def _linear(
    scaler: StandardScaler, classifier: LogisticRegression
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do both steps at once."""
    kernel, bias = classifier.coef_.T, classifier.intercept_
    if kernel.shape[1] == 1:  # of two classes, the second one's odds
        kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
        bias = np.concatenate([np.zeros_like(bias), bias])
    kernel = kernel / scaler.scale_[:, None]
    bias = bias - scaler.mean_ @ kernel
    return kernel.astype("float32"), bias.astype("float32")


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
