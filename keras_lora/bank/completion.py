"""What a language model adds to texts, with the counts that a server tells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_lora.bank.generation import Generation, steps
from keras_lora.bank.prompts import IDS, MASK, PARTS, Prompts, Unsaid
from keras_lora.errors import raise_if
from keras_lora.model.compiled import Hold


@dataclass(frozen=True)
class Completion:
    """What a language model adds to a text; of a stream, what is new of it.

    Attributes:
        text: Without the prompt.
        prompt_tokens: Tokens of the prompt.
        tokens: Tokens generated so far, the one that ended it included.
        finish: `"stop"` where such a token came, `"length"` where there was
            no more room; None where a stream goes on.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finish: str | None


def ends_of(prompts: Prompts, more: Sequence[int], context: int) -> list[int]:
    """Where each row ends at the latest, which is behind its prompt."""
    raise_if(
        "Nothing was generated",
        [
            f"a prompt of {'over ' if size > context else ''}"
            f"{min(size, context):,} tokens leaves no room in {context:,}"
            for size in prompts.sizes
            if size >= context
        ],
    )
    return [
        min(size + count, context)
        for size, count in zip(prompts.sizes, more, strict=True)
    ]


def shortened(prompts: Prompts, length: int) -> Prompts:
    """The same prompts with room for so many tokens, answers included."""
    part = prompts.part
    names = (part + IDS, part + MASK)
    tokens = {
        name: value[:, :length] if name in names else value
        for name, value in prompts.tokens.items()
    }
    return replace(prompts, tokens=tokens, is_one=False)


def until(prompts: Prompts, ends: Sequence[int]) -> Prompts:
    """The same with nothing behind the ends of rows."""
    name = prompts.part + MASK
    mask = prompts.tokens[name].copy()
    mask[np.arange(mask.shape[1]) >= np.array(ends)[:, None]] = False
    return replace(prompts, tokens={**prompts.tokens, name: mask})


def prompt_tokens(prompts: Prompts) -> list[int]:
    """How many tokens were read of each row."""
    masks = [
        prompts.tokens[part + MASK]
        for part in PARTS
        if part + MASK in prompts.tokens
    ]
    return [int(count) for count in sum(mask.sum(1) for mask in masks)]


class Said:
    """The completions of a call's rows as they grow."""

    def __init__(self, asked: Prompts, ends: list[int]) -> None:
        self.asked, self.ends = asked, ends
        self._unsaid = Unsaid(asked)
        self._read = prompt_tokens(asked)

    def next(self, now: Prompts) -> list[Completion]:
        """What is new of each row."""
        now = until(now, self.ends)
        texts = self._unsaid.next(now)
        return [
            Completion(
                text,
                self._read[row],
                len(now.answered(row, self.asked)),
                self._finish(now, row),
            )
            for row, text in enumerate(texts)
        ]

    def _finish(self, now: Prompts, row: int) -> str | None:
        if now.has_ended(row, self.asked):
            return "stop"
        return "length" if now.sizes[row] >= self.ends[row] else None


def completed(
    call: Generation, ends: list[int], batch_size: int, running: Hold
) -> list[Completion]:
    """All of a call's rows, to their ends."""
    with running():
        outputs = call.run(batch_size)
    asked = call.prompts
    rows = list(range(asked.rows))
    now = asked.extended(rows, outputs, asked.length)
    return Said(asked, ends).next(now)


def streamed_completions(
    call: Generation,
    ends: list[int],
    count: int,
    batch_size: int,
    running: Hold,
) -> Iterator[list[Completion]]:
    """The same, as it comes: so many tokens at a time."""
    said = Said(call.prompts, ends)
    for now in steps(call, count, batch_size, running):
        found = said.next(now)
        yield found
        if all(completion.finish for completion in found):
            return
