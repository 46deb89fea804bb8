"""What is reached without fine-tuning, on the same texts."""

from typing import Any

import keras
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.base import Tokenizer
from app.batches import predict_texts
from app.data import Splits

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of `C` that the validation texts choose from."""


def frozen_probe(
    base: keras.Model, splits: Splits, tokenizer: Tokenizer
) -> float:
    """Test accuracy of a logistic regression on the frozen base's features."""
    train, validation, test = (
        predict_texts(base, part.texts, tokenizer)
        for part in (splits.train, splits.validation, splits.test)
    )
    return _best([StandardScaler()], splits, train, validation, test)


def bag_of_words(splits: Splits) -> float:
    """Test accuracy of a logistic regression on TF-IDF of words and pairs."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = words.fit_transform(splits.train.texts)
    validation = words.transform(splits.validation.texts)
    test = words.transform(splits.test.texts)
    return _best([], splits, train, validation, test)


def _best(
    scaling: list, splits: Splits, train: Any, validation: Any, test: Any
) -> float:
    """Test accuracy with the strength that does best in validation."""
    scores = []
    for strength in STRENGTHS:
        classifier = make_pipeline(
            *scaling, LogisticRegression(C=strength, max_iter=2000)
        )
        classifier.fit(train, splits.train.labels)
        score = classifier.score(validation, splits.validation.labels)
        scores.append((score, classifier))
    winner = scores[int(np.argmax([score for score, _ in scores]))][1]
    return float(winner.score(test, splits.test.labels))
