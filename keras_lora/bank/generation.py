"""One call of a language model: its rows, cut into batches and joined."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lora.bank.batches import Adapters, Batch
from keras_lora.bank.generate import Generator
from keras_lora.bank.prompts import Prompts, Tokens, Unsaid
from keras_lora.bank.routing import RowWeights
from keras_lora.model.compiled import Hold


@dataclass(frozen=True)
class Generation:
    """One call.

    Attributes:
        generator: The language model.
        prompts: What it is asked.
        names: Each row's adapter.
        chosen: What is loaded under these names.
        gather: Gives the weights of the rows of a batch, by their names.
    """

    generator: Generator
    prompts: Prompts
    names: list[str | None]
    chosen: Adapters
    gather: Callable[[Sequence[str | None]], RowWeights]

    def run(self, batch_size: int) -> Tokens:
        """All rows, generated to their end."""
        batches = [
            batch
            for rows in self.generator.apart(self.prompts)
            for batch in self.batches(rows, batch_size)
        ]
        limit = self.prompts.length
        parts = [
            self.step(self.prompts, batch, limit, batch_size)
            for batch in batches
        ]
        order = np.argsort([row for batch in batches for row in batch.rows])
        if not len(order):
            return self.prompts.tokens
        return {
            name: np.concatenate([part[name] for part in parts])[order]
            for name in parts[0]
        }

    def batches(self, rows: list[int], batch_size: int) -> list[Batch]:
        """Rows cut so that their adapters fit into the slots."""
        whole = Batch(rows, [self.names[row] for row in rows])
        room = self.generator.slots.room
        return [
            batch
            for part in whole.apart(self.chosen)
            for batch in part.cut(batch_size, room)
        ]

    def step(
        self, prompts: Prompts, batch: Batch, limit: int, batch_size: int
    ) -> Tokens:
        """Generates a batch up to a length."""
        count = len(batch.rows)
        size = min(batch_size, 1 << (count - 1).bit_length())
        names = np.resize(np.array(batch.names, object), size).tolist()
        tokens = prompts.batch(batch.rows, size, self.generator.longest)
        outputs = self.generator.run(
            tokens, self.gather(names), limit, prompts.stop_ids
        )
        return {
            name: value[:count, : prompts.length]
            for name, value in outputs.items()
        }


def streamed(
    call: Generation,
    count: int,
    batch_size: int,
    running: Hold,
) -> Iterator[list[Any]]:
    """A call's new tokens, some at a time."""
    unsaid = Unsaid(call.prompts)
    for prompts in steps(call, count, batch_size, running):
        yield unsaid.next(prompts)


def steps(
    call: Generation,
    count: int,
    batch_size: int,
    running: Hold,
) -> Iterator[Prompts]:
    """A call's rows as they grow, by so many tokens at a time.

    What was generated is a prompt then, so that the next step begins with it.
    """
    prompts = call.prompts
    end, rows = 0, list(range(prompts.rows))
    while rows and end < prompts.length:
        shortest = min(prompts.sizes[row] for row in rows)
        end = min(max(end, shortest) + count, prompts.length)
        with running():
            for batch in call.batches(rows, batch_size):
                outputs = call.step(prompts, batch, end, batch_size)
                prompts = prompts.extended(batch.rows, outputs, end)
        yield prompts
        rows = [row for row in rows if not prompts.has_ended(row, call.prompts)]
