"""What a KerasHub language model is asked, and what it answers."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.model.surgery import Layer

Tokens: TypeAlias = dict[str, np.ndarray]
IDS, MASK = "token_ids", "padding_mask"
PARTS = ("", "encoder_", "decoder_")
"""What KerasHub puts before these names."""
SHORTEST = 16
"""The least length that is compiled, and the least step to the next."""


@dataclass(frozen=True)
class Prompts:
    """The rows of a call.

    Attributes:
        tokens: What the language model takes: arrays, batch first.
        stop_ids: Tokens that end a row, or None.
        preprocessor: What makes text of tokens, or None.
        is_one: Whether one text was given, and no list.
    """

    tokens: Tokens
    stop_ids: tuple[int, ...] | None
    preprocessor: Any
    is_one: bool

    @property
    def part(self) -> str:
        """What stands before the names of what is generated."""
        return "" if IDS in self.tokens else "decoder_"

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a row, of which there may be none."""
        return self.stop_ids or ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.tokens[self.part + IDS])

    @property
    def length(self) -> int:
        """Tokens in a row, prompt and answer together."""
        return int(self.tokens[self.part + IDS].shape[1])

    @property
    def sizes(self) -> list[int]:
        """How many tokens each row's prompt has."""
        mask = self.tokens[self.part + MASK]
        return [int(size) for size in mask.sum(1)]

    def batch(self, rows: list[int], size: int, longest: int | None) -> Tokens:
        """Some rows, filled up to a number and to a length that is compiled.

        Args:
            rows: Which rows.
            size: How many there are to be; the last ones are repeated.
            longest: The greatest length the model can take, if there is one.
        """
        taken = np.resize(rows, size)
        tokens = {name: value[taken] for name, value in self.tokens.items()}
        known = {part + name for part in PARTS for name in (IDS, MASK)}
        if not tokens.keys() <= known:  # images, whose places are in others
            return tokens
        return {
            name: widened(value, self._filler(name), longest)
            for name, value in tokens.items()
        }

    def _filler(self, name: str) -> int:
        """What is put where a row is padded: no token that ends it."""
        if name.endswith(MASK):
            return 0
        return next(n for n in itertools.count() if n not in self.ends)

    def extended(self, rows: list[int], outputs: Tokens, end: int) -> "Prompts":
        """The same with some rows generated up to a length."""
        tokens = {name: value.copy() for name, value in self.tokens.items()}
        tokens[self.part + IDS][rows] = outputs[self.part + IDS]
        tokens[self.part + MASK][rows, :end] = True
        return replace(self, tokens=tokens)

    def answered(self, row: int, asked: "Prompts") -> np.ndarray:
        """What a row has beyond its first prompt, its stop token included."""
        first, now = asked.sizes[row], self.sizes[row]
        new: np.ndarray = self.tokens[self.part + IDS][row, first:now]
        ends = np.flatnonzero(np.isin(new, self.ends))
        return new[: ends[0] + 1] if len(ends) else new

    def has_ended(self, row: int, asked: "Prompts") -> bool:
        """Whether a row has come to a token that ends it."""
        new = self.answered(row, asked)
        return bool(np.isin(new[-1:], self.ends).any())

    def answer(self, outputs: Tokens, strip_prompt: bool) -> Any:
        """What `generate` gives for all rows' outputs, (rows, length)."""
        ids, mask = self.part + IDS, self.part + MASK
        if strip_prompt:
            outputs = dict(outputs)
            outputs[ids], outputs[mask] = without_prompt(
                outputs[ids], outputs[mask], self.tokens[mask]
            )
        if self.preprocessor is None:
            return outputs
        if not self.rows:
            return []
        texts = self.preprocessor.generate_postprocess(outputs)
        if not isinstance(texts, list):
            texts = ops.convert_to_numpy(texts)
        return texts[0] if self.is_one else texts


def read_prompts(
    inputs: Any, task: Any, max_length: int | None, stop_token_ids: Any
) -> Prompts:
    """Makes arrays of what a caller gives, as KerasHub's `generate` does."""
    preprocessor = task.preprocessor
    problems = []
    if preprocessor is None and isinstance(stop_token_ids, str):
        problems.append(
            'stop_token_ids="auto" needs a preprocessor: give None, or a tuple '
            "of token ids"
        )
    if preprocessor is None and not isinstance(inputs, dict):
        problems.append(
            "a task without a preprocessor takes a dict of `token_ids` and "
            f"`padding_mask`. Received: {type(inputs).__name__}"
        )
    if type(inputs).__name__.endswith("Dataset"):
        problems.append("give arrays or texts: a dataset has no rows to name")
    raise_if("Nothing was generated", problems)
    is_one, is_empty = False, isinstance(inputs, list) and not inputs
    if preprocessor is not None:
        inputs = [""] if is_empty else inputs  # for the length of a row
        inputs = keras.tree.map_structure(as_list, inputs)
        leaves = inputs.values() if isinstance(inputs, dict) else [inputs]
        is_one = all(is_scalar(value) for value in leaves)
        if is_one and isinstance(inputs, dict):
            inputs = {name: [value] for name, value in inputs.items()}
        elif is_one:
            inputs = [inputs]
        inputs = preprocessor.generate_preprocess(
            inputs, sequence_length=max_length
        )
    tokens = {name: plain(name, value) for name, value in inputs.items()}
    if is_empty:
        tokens = {name: value[:0] for name, value in tokens.items()}
    raise_if("Nothing was generated", wrong_tokens(tokens))
    stop_ids = stops(stop_token_ids, preprocessor)
    return Prompts(tokens, stop_ids, preprocessor, is_one)


def as_list(texts: Any) -> Any:
    """An array of texts as a list, which all tokenizers take."""
    is_array = isinstance(texts, np.ndarray) and texts.dtype.kind in "USO"
    return texts.tolist() if is_array else texts


def is_scalar(text: Any) -> bool:
    """Whether one text was given."""
    return isinstance(text, str | bytes) or np.shape(text) == ()


def plain(name: str, value: Any) -> np.ndarray:
    """A tensor of any backend, or what NumPy knows, as an array."""
    if ops.is_tensor(value):
        value = ops.convert_to_numpy(value)
    kind = "int32" if name.endswith(IDS) else None
    return np.asarray(value, "bool" if name.endswith(MASK) else kind)


def wrong_tokens(tokens: Tokens) -> list[str]:
    """Says what keeps arrays from being prompts."""
    part = "" if IDS in tokens else "decoder_"
    problems = [
        f"no {name!r}"
        for name in (part + IDS, part + MASK)
        if name not in tokens
    ]
    shapes = {
        name: value.shape
        for name, value in tokens.items()
        if name.endswith((IDS, MASK))
    }
    if any(len(shape) != 2 for shape in shapes.values()):
        problems.append(f"tokens and masks are (rows, length). Got {shapes}")
    if len({shape[:1] for shape in shapes.values()}) > 1:
        problems.append(f"as many rows are needed of each. Got {shapes}")
    return problems


def stops(stop_token_ids: Any, preprocessor: Any) -> tuple[int, ...] | None:
    """The tokens that end a row."""
    if stop_token_ids is None:
        return None
    if isinstance(stop_token_ids, str):
        tokenizer = preprocessor.tokenizer
        found = [tokenizer.end_token_id]
        if hasattr(tokenizer, "end_token2_id"):
            found.append(tokenizer.end_token2_id)
        stop_token_ids = found
    return tuple(int(token) for token in np.ravel(stop_token_ids))


def widened(value: np.ndarray, filler: int, longest: int | None) -> np.ndarray:
    """An array (rows, length) at a length that is compiled, as int or bool."""
    rows, length = value.shape
    size = length_to_compile(length)
    if longest is not None:
        size = max(length, min(size, longest))
    filled = np.full((rows, size), filler, value.dtype)
    filled[:, :length] = value
    return filled


def length_to_compile(length: int) -> int:
    """The next of few lengths: four between a power of two and the next."""
    step = max(SHORTEST, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


def longest_prompt(layers: Iterable[Layer]) -> int | None:
    """The greatest length that all layers with positions can take."""
    names = ("sequence_length", "max_sequence_length")
    known = [getattr(la, name, None) for la in layers for name in names]
    return min((n for n in known if isinstance(n, int)), default=None)


def without_prompt(
    ids: np.ndarray, mask: np.ndarray, prompt: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask with each row's prompt moved behind, and masked."""
    length = prompt.shape[1]
    places = (np.arange(length) + prompt.sum(1, keepdims=True)) % length
    ids, mask, prompt = (
        np.take_along_axis(value, places, 1) for value in (ids, mask, prompt)
    )
    return ids, mask ^ prompt


class Unsaid:
    """What of rows that grow has not been given out yet."""

    def __init__(self, asked: Prompts) -> None:
        self.asked = asked
        self.said = self._said_by(asked)

    def next(self, now: Prompts) -> list[Any]:
        """What is new, a row each: a text, or an array of tokens."""
        before, self.said = self.said, self._said_by(now)
        pairs = zip(before, self.said, strict=True)
        return [new[len(old) :] for old, new in pairs]

    def _said_by(self, now: Prompts) -> list[Any]:
        answers = [
            now.answered(row, self.asked) for row in range(self.asked.rows)
        ]
        if now.preprocessor is None:
            return answers
        mask = np.zeros_like(now.tokens[now.part + MASK])
        for row, answer in enumerate(answers):
            mask[row, : self.asked.sizes[row] + len(answer)] = True
        tokens = {**now.tokens, now.part + MASK: mask}
        texts = replace(now, is_one=False).answer(tokens, strip_prompt=False)
        # A character of several tokens may not be whole yet.
        return [text.rstrip("\N{REPLACEMENT CHARACTER}") for text in texts]
