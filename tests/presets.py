"""Tiny presets of KerasHub, written to a folder: tasks that take texts."""

import numpy as np

from tests.models import hub, set_random

TEXTS = ["the good film", "a bad fox", "quick brown fox", "good"]
LABELS = np.array([1, 0, 0, 1])
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [
    *SPECIAL,
    "a",
    "the",
    "quick",
    "brown",
    "fox",
    "good",
    "bad",
    "film",
]
LENGTH = 8
SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": LENGTH,
    "dropout": 0.0,
}


def text_classifier():
    """A classifier with its preprocessor, and random weights."""
    models = hub().models
    backbone = models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        **SIZES,
    )
    preprocessor = models.BertTextClassifierPreprocessor(
        models.BertTokenizer(vocabulary=VOCABULARY), sequence_length=LENGTH
    )
    task = models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=preprocessor
    )
    set_random(task.weights, 0)
    return task


def causal_lm():
    """A language model with its tokenizer, and random weights."""
    models = hub().models
    tokens = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyzĠ", "th"]
    backbone = models.GPT2Backbone(
        vocabulary_size=len(tokens),
        **SIZES,
    )
    tokenizer = models.GPT2Tokenizer(
        vocabulary={token: n for n, token in enumerate(tokens)},
        merges=["t h"],
    )
    preprocessor = models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=LENGTH
    )
    task = models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    set_random(task.weights, 0)
    return task


TASKS = {"TextClassifier": text_classifier, "CausalLM": causal_lm}


def write_preset(name, folder):
    """Writes the preset of a task; returns the folder."""
    TASKS[name]().save_to_preset(str(folder))
    return str(folder)


def read_preset(name, folder, **options):
    """A task as a user gets it: by the class for its kind."""
    return getattr(hub().models, name).from_preset(folder, **options)
