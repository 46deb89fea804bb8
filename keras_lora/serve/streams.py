"""Generations that are given out as they come."""

import threading
import time
from collections.abc import Callable, Iterator

from keras_lora.bank.completion import Completion
from keras_lora.serve.errors import NotServing, QueueFull
from keras_lora.serve.running import Observer


class Streams:
    """Counts streams, of which there are only so many at a time."""

    def __init__(self, most: int, observe: Observer) -> None:
        self.most, self.running = most, 0
        self._observe = observe
        self._changed = threading.Condition()
        self._stopping = False

    def open(
        self, rows: int, make: Callable[[], Iterator[list[Completion]]]
    ) -> "Stream":
        """A stream of what `make` gives."""
        with self._changed:
            if self._stopping:
                raise NotServing("the server is stopping")
            if self.running >= self.most:
                raise QueueFull("too many streams run: ask again later")
            self.running += 1
        try:
            return Stream(make(), rows, self._observe, self._close)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        with self._changed:
            self.running -= 1
            self._changed.notify_all()

    def refuse(self) -> None:
        """Opens none any more."""
        with self._changed:
            self._stopping = True

    def wait(self, timeout: float | None) -> bool:
        """Whether all are closed within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.running, timeout)


class Stream:
    """What a generation adds, as it comes: a list of `Completion` a step."""

    def __init__(
        self,
        steps: Iterator[list[Completion]],
        rows: int,
        observe: Observer,
        ended: Callable[[], None],
    ) -> None:
        self._steps, self._rows, self._observe = steps, rows, observe
        self._ended: Callable[[], None] | None = ended

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> list[Completion]:
        start = time.perf_counter()
        try:
            found = next(self._steps)
        except BaseException:
            self.close()
            raise
        self._observe("stream", self._rows, time.perf_counter() - start)
        return found

    def close(self) -> None:
        """Makes room for another stream."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    def __del__(self) -> None:
        self.close()
