"""A bank over a KerasHub language model."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from keras_lora.bank.batches import Adapters, Names, band_of
from keras_lora.bank.completion import (
    Completion,
    completed,
    ends_of,
    shortened,
    streamed_completions,
)
from keras_lora.bank.core import Served
from keras_lora.bank.generate import Generator, language_model
from keras_lora.bank.generation import Generation, streamed
from keras_lora.bank.prompts import read_prompts
from keras_lora.bank.routing import RowWeights
from keras_lora.errors import raise_if
from keras_lora.settings import is_int, positive_int


class SpeakingBank(Served):
    """What a bank does where its base says something."""

    def generate(
        self,
        inputs: Any,
        adapter: Names = None,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
        batch_size: int = 32,
        *,
        task: Any = None,
    ) -> Any:
        """Generates text with a KerasHub language model, many adapters at once.

        The base is a `CausalLM` or `Seq2SeqLM`, or the backbone of one. Rows
        get what KerasHub's own `generate` would give each alone; with a
        sampler that draws, the draws are the batch's. Few lengths and sizes
        of batches are compiled. The bank is not held meanwhile: others
        predict, load and unload, and a call goes on with what it began with.

        Args:
            inputs: As for KerasHub's `generate`: a text or a list of texts
                where the task has a preprocessor, else a dict of int arrays
                `token_ids` and `padding_mask` (rows, length), padded to the
                length that is wanted.
            adapter: None for the base, a name for all rows, or one name or
                None for each row. A head that an adapter has is not used.
            max_length: Tokens in a row, prompt and answer together. Without a
                preprocessor the length of the inputs counts.
            stop_token_ids: `"auto"` for the tokenizer's, None, or ids that
                end a row.
            strip_prompt: Whether answers come without their prompts.
            batch_size: Rows that are generated together, int above 0. Beam
                search takes rows of prompts of one length together, and each
                row alone where tokens end it.
            task: The language model, where the base is a backbone that
                several use.

        Returns:
            What KerasHub's `generate` gives: a text, a list of texts, or the
            dict of arrays (rows, length).

        Raises:
            ValueError: A name is not loaded, there are not as many as rows,
                or the base is no language model of KerasHub's.
        """
        call = self._generation(
            inputs, adapter, max_length, stop_token_ids, batch_size, task
        )
        with self._running():
            outputs = call.run(batch_size)
        return call.prompts.answer(outputs, strip_prompt)

    def stream(
        self,
        inputs: Any,
        adapter: Names = None,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        batch_size: int = 32,
        *,
        tokens: int = 8,
        task: Any = None,
    ) -> Iterator[list[Any]]:
        """Generates as `generate` does, and gives what is new as it comes.

        KerasHub keeps no cache between calls, so that each step runs what is
        there already once more, in one pass. No beam search.

        Args:
            inputs: As for `generate`, as are the arguments below but one.
            adapter: None, a name, or one name or None for each row.
            max_length: Tokens in a row, prompt and answer together.
            stop_token_ids: What ends a row.
            batch_size: Rows that are generated together, int above 0.
            tokens: How many tokens each step adds to a row, int above 0.
            task: The language model.

        Yields:
            Lists with an item for each row: the new text, or without a
            preprocessor an array (new tokens,); both are empty where nothing
            is new.

        Raises:
            ValueError: As for `generate`.
        """
        raise_if("Nothing was generated", positive_int("tokens", tokens))
        call = self._generation(
            inputs, adapter, max_length, stop_token_ids, batch_size, task
        )
        if call.generator.searches_beams:
            raise ValueError("Nothing was generated: beams are not streamed")
        return streamed(call, tokens, batch_size, self._running)

    def complete(
        self,
        texts: Sequence[str],
        adapter: Names = None,
        max_tokens: int | Sequence[int] = 16,
        batch_size: int = 32,
        *,
        max_length: int | None = None,
    ) -> list[Completion]:
        """Generates as `generate` does, and tells what a server has to.

        Args:
            texts: Prompts; the task has a preprocessor.
            adapter: None, a name, or one name or None for each row.
            max_tokens: How many tokens to add at most, to each or for each.
            batch_size: Rows that are generated together, int above 0.
            max_length: Tokens in a row, prompt and answer together, where less
                is wanted than the model or its preprocessor takes.

        Returns:
            A `Completion` for each text: what was added, without the prompt,
            the counts of tokens and what ended it.

        Raises:
            ValueError: As for `generate`, or a prompt leaves no room, or
                `texts` is a single text.
        """
        call, ends = self._completion(
            texts, adapter, max_tokens, batch_size, max_length
        )
        return completed(call, ends, batch_size, self._running)

    def stream_completions(
        self,
        texts: Sequence[str],
        adapter: Names = None,
        max_tokens: int | Sequence[int] = 16,
        batch_size: int = 32,
        *,
        tokens: int = 8,
        max_length: int | None = None,
    ) -> Iterator[list[Completion]]:
        """Generates as `stream` does, and tells what `complete` does.

        Args:
            texts: As for `complete`, as are the arguments below but one.
            adapter: None, a name, or one name or None for each row.
            max_tokens: How many tokens to add at most.
            batch_size: Rows that are generated together, int above 0.
            tokens: How many tokens each step adds to a row, int above 0.
            max_length: Tokens in a row, prompt and answer together.

        Yields:
            Lists with what is new of each row.

        Raises:
            ValueError: As for `complete`; beams are not streamed.
        """
        raise_if("Nothing was generated", positive_int("tokens", tokens))
        call, ends = self._completion(
            texts, adapter, max_tokens, batch_size, max_length
        )
        if call.generator.searches_beams:
            raise ValueError("Nothing was generated: beams are not streamed")
        return streamed_completions(
            call, ends, tokens, batch_size, self._running
        )

    def _completion(
        self,
        texts: Sequence[str],
        adapter: Names,
        max_tokens: int | Sequence[int],
        batch_size: int,
        max_length: int | None,
    ) -> tuple[Generation, list[int]]:
        """A call as it begins, and where each row ends at the latest."""
        with self._attached():
            generator = self._generator_of(None)
        preprocessor = generator.task.preprocessor
        if preprocessor is None:
            raise ValueError(
                "Nothing was generated: the task has no preprocessor, which "
                "makes tokens of texts"
            )
        more: Any = max_tokens
        more = [more] * len(texts) if is_int(more) else list(more)
        problems = [p for n in more for p in positive_int("max_tokens", n)]
        if max_length is not None:
            problems += positive_int("max_length", max_length)
        if isinstance(texts, str):
            problems.append("`texts` must be a list of texts, not one text")
        elif len(more) != len(texts):
            problems.append(f"{len(more)} `max_tokens` for {len(texts)} texts")
        raise_if("Nothing was generated", problems)
        context = generator.longest or preprocessor.sequence_length
        if max_length is not None:
            context = min(context, max_length)
        call = self._generation(
            list(texts), adapter, context + 1, "auto", batch_size, None
        )
        ends = ends_of(call.prompts, more, context)
        prompts = shortened(call.prompts, max(ends, default=1))
        return replace(call, prompts=prompts), ends

    def _generation(
        self,
        inputs: Any,
        adapter: Names,
        max_length: int | None,
        stop_token_ids: Any,
        batch_size: int,
        task: Any,
    ) -> Generation:
        """A call as it begins: what is replaced from now on is not seen."""
        problems = positive_int("batch_size", batch_size)
        if max_length is not None:
            problems += positive_int("max_length", max_length)
        raise_if("Nothing was generated", problems)
        with self._attached():
            generator = self._generator_of(task)
        with self._preparing:
            prompts = read_prompts(
                inputs, generator.task, max_length, stop_token_ids
            )
        with self._attached():
            names, chosen = self._choose(
                "Nothing was generated", adapter, prompts.rows
            )
        gather = functools.partial(self._gather, chosen)
        return Generation(generator, prompts, names, chosen, gather)

    def _generator_of(self, task: Any) -> Generator:
        """The language model over the base, and what it compiled."""
        if task is None and self._generator is not None:
            return self._generator
        task = language_model(self._base, task)
        if self._generator is None or self._generator.task is not task:
            self._generator = Generator(
                task, self._slots, self._layers, self._hold
            )
        return self._generator

    def _gather(
        self, chosen: Adapters, names: Sequence[str | None]
    ) -> RowWeights:
        """The weights of rows' adapters, once they have been brought in."""
        with self._attached():
            slots = self._slots_of(names, chosen)
            band = band_of(names, chosen)
            weights = self._slots.weights_of(slots, band)
            self._drop_replaced(chosen, names)
            return weights
