"""The demo's base for `keras-lora serve`, which asks for a function."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from app.texts.base import MAX_TOKENS, Tokenizer, load_base, pad

LENGTHS = (16, 32, 64, MAX_TOKENS)
"""Tokens that a batch's rows are padded to: few, so that few are traced."""


def base() -> tuple[keras.Model, Callable[[list[str]], dict[str, Any]]]:
    """MiniLM, fetched on first use, and what makes its inputs of texts."""
    tokenizer = Tokenizer()
    return load_base(), lambda texts: inputs_of(tokenizer.encode(texts))


def inputs_of(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Rows of token ids as the base's inputs, at one of the lengths."""
    longest = max(map(len, rows), default=1)
    return pad(rows, next(n for n in LENGTHS if n >= longest))
