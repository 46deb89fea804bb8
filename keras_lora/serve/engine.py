"""A bank that answers many callers at once, in mixed batches."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from keras_lora.bank import AdapterBank
from keras_lora.bank.batches import Names, names_of_rows
from keras_lora.bank.completion import Completion
from keras_lora.bank.raw import has_preprocessor
from keras_lora.errors import raise_if
from keras_lora.files.format import AdapterInfo
from keras_lora.serve.answers import Prediction
from keras_lora.serve.errors import RefusedInput, UnknownAdapter
from keras_lora.serve.folder import FolderWatcher
from keras_lora.serve.gather import Gatherer
from keras_lora.serve.inputs import Reader, signature
from keras_lora.serve.running import Observer, Runner
from keras_lora.serve.streams import Stream, Streams
from keras_lora.settings import positive_int, positive_number


class Engine:
    """Gathers requests into mixed batches, runs them, answers each.

    One thread runs predictions, another generations, so that a generation
    does not keep predictions waiting. All methods may be called from any
    thread.

    Args:
        bank: What answers.
        folder: The folder of adapters to follow, see `FolderWatcher`. None:
            the bank serves what the caller loads.
        preprocessor: Makes the base's inputs of a list of texts: a nest of
            arrays, batch first. None: the base's own, if it has one.
        base_name: What callers may call the base itself, beside None.
        max_batch: Rows in a forward pass.
        max_generations: Rows that are generated together.
        max_streams: Streams at a time.
        max_length: Tokens of a generation, prompt and answer together; None
            for what the model takes.
        max_axis: The largest size of an axis that the base leaves open, in
            rows of numbers. What a preprocessor makes is not measured.
        wait: Seconds that a row waits for others to come.
        queue: Rows that may wait, and that one request may have.
        poll: Seconds between two looks into the folder.
        observe: Told of each batch: `"predict"`, `"generate"` or `"stream"`,
            its rows, and the seconds that it took.

    Raises:
        ValueError: A setting is out of its range, or there is no such folder.
    """

    def __init__(
        self,
        bank: AdapterBank,
        *,
        folder: str | os.PathLike[str] | None = None,
        preprocessor: Callable[[list[str]], Any] | None = None,
        base_name: str = "base",
        max_batch: int = 32,
        max_generations: int = 8,
        max_streams: int = 4,
        max_length: int | None = None,
        max_axis: int = 512,
        wait: float = 0.004,
        queue: int = 256,
        poll: float = 1.0,
        observe: Observer | None = None,
    ) -> None:
        problems = []
        for name, value in (
            ("max_batch", max_batch),
            ("max_generations", max_generations),
            ("max_streams", max_streams),
            ("queue", queue),
        ):
            problems += positive_int(name, value, 100_000)
        problems += positive_int("max_axis", max_axis)
        for name, seconds in (("wait", wait), ("poll", poll)):
            problems += positive_number(name, seconds)
        if max_length is not None:
            problems += positive_int("max_length", max_length)
        raise_if("The engine was not started", problems)
        self.bank, self.base_name = bank, base_name
        self._max_length, self._max_generations = max_length, max_generations
        tell = observe or (lambda kind, rows, seconds: None)
        self.runner = Runner(bank, preprocessor, max_batch, tell)
        self.streams = Streams(max_streams, tell)
        own = has_preprocessor(bank.base)
        self.reader = Reader(
            bank.inputs,
            takes_texts=own or preprocessor is not None,
            is_open=own,
            most=queue,
            max_axis=max_axis,
        )
        self.folder = None
        if folder is not None:
            self.folder = FolderWatcher(
                bank, folder, every=poll, reserved={base_name}
            )
        self._predictions = Gatherer(
            "keras_lora predictions",
            self.runner.predict,
            most=max_batch,
            wait=wait,
            room=queue,
        )
        self._generations = Gatherer(
            "keras_lora generations",
            lambda batch: self.runner.generate(
                batch, max_generations, max_length
            ),
            most=max_generations,
            wait=wait,
            room=queue,
        )
        if self.folder is not None:
            self.folder.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    @property
    def waiting(self) -> dict[str, int]:
        """How many rows wait, by what for."""
        return {
            "predict": self._predictions.waiting,
            "generate": self._generations.waiting,
        }

    @property
    def speaks(self) -> bool:
        """Whether the base is a language model that takes texts."""
        base = self.bank.base
        return has_preprocessor(base) and hasattr(base, "generate_step")

    @property
    def models(self) -> dict[str, AdapterInfo]:
        """The served adapters and what their files say."""
        found = {}
        for name in self.bank.names:
            info = self.runner.info(name)
            if info is not None:
                found[name] = info
        return found

    def info(self, name: str | None) -> AdapterInfo | None:
        """What an adapter's file says, by one look; None for the base.

        Raises:
            UnknownAdapter: There is none of the name.
        """
        if name is None or name == self.base_name:
            return None
        found = self.runner.info(name)
        if found is None:
            raise UnknownAdapter(name)
        return found

    def own_name(self, name: str | None) -> str | None:
        """What the bank calls an adapter; None for the base.

        Raises:
            UnknownAdapter: There is none of the name.
        """
        return None if self.info(name) is None else name

    def predict(
        self, rows: Sequence[Any], adapter: Names = None
    ) -> list["Future[Prediction]"]:
        """Takes rows, all or none; each is answered by a future.

        Args:
            rows: Texts, or nests of arrays without the axis of the batch; see
                `reader.rows`.
            adapter: A name or None for all, or one for each row.

        Raises:
            UnknownAdapter: No such adapter is served; also by a future, where
                it goes meanwhile.
            QueueFull: There is no room for them.
            NotServing: It was stopped.
        """
        names = self._names(adapter, len(rows))
        return self._predictions.put(
            [(signature(r), (r, n)) for r, n in zip(rows, names, strict=True)]
        )

    def generate(
        self,
        prompts: Sequence[str],
        adapter: Names = None,
        max_tokens: int = 16,
    ) -> list["Future[Completion]"]:
        """Takes prompts, all or none; each is answered by a future.

        Raises:
            UnknownAdapter: No such adapter is served; also by a future, where
                it goes meanwhile.
            QueueFull: There is no room for them.
            NotServing: It was stopped.
        """
        names = self._names(adapter, len(prompts))
        pairs = zip(prompts, names, strict=True)
        return self._generations.put(
            [("generation", (p, name, max_tokens)) for p, name in pairs]
        )

    def stream(
        self,
        prompts: Sequence[str],
        adapter: Names = None,
        max_tokens: int = 16,
    ) -> "Stream":
        """Generates in the thread that iterates, and gives what is new.

        Close it, also where not all of it was taken.

        Raises:
            RefusedInput: They are more than are generated together.
            UnknownAdapter: No such adapter is served.
            QueueFull: As many streams run as there may be.
            NotServing: It was stopped.
        """
        most = self._max_generations
        if len(prompts) > most:
            raise RefusedInput(f"a stream has at most {most} prompts")
        names = self._names(adapter, len(prompts))
        with self.runner.serving(names):
            return self.streams.open(
                len(prompts),
                lambda: self.bank.stream_completions(
                    prompts,
                    names,
                    max_tokens,
                    self._max_generations,
                    max_length=self._max_length,
                ),
            )

    def _names(self, adapter: Names, count: int) -> list[str | None]:
        names = names_of_rows(adapter, count)
        if len(names) != count:
            raise RefusedInput(f"{len(names)} models for {count} rows")
        known = {name: self.own_name(name) for name in dict.fromkeys(names)}
        return [known[name] for name in names]

    def stop(self, timeout: float | None = None) -> bool:
        """Takes nothing more, and ends once all that was taken is answered.

        Returns:
            Whether that was within so many seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        self.streams.refuse()
        if self.folder is not None:
            self.folder.stop(left())
        done = self._predictions.stop(left())
        done &= self._generations.stop(left())
        return self.streams.wait(left()) and done
