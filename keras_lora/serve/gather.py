"""Requests of many callers, gathered into batches by one thread."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from keras_lora.serve.errors import NotServing, QueueFull, log_failure


@dataclass(frozen=True, eq=False)
class Item:
    """One thing to answer; those of one key go into a batch."""

    key: Hashable
    payload: Any
    answer: "Future[Any]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Gatherer:
    """A bounded queue, and the thread that runs what is in it.

    Args:
        name: Of the thread.
        run: Answers the payloads of a batch, one result each; one that is an
            exception is what its caller gets.
        most: Items in a batch.
        wait: Seconds that an item waits for others to come.
        room: Items that may wait.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        most: int,
        wait: float,
        room: int,
    ) -> None:
        self.room = room
        self._run, self._most, self._wait = run, most, wait
        self._items: list[Item] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._work, name=name, daemon=True
        )
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._items)

    def put(self, given: Sequence[tuple[Hashable, Any]]) -> list["Future[Any]"]:
        """Takes pairs of a key and a payload: all of them, or none.

        Raises:
            QueueFull: They are more than there is room for.
            NotServing: It was stopped.
        """
        items = [Item(key, payload) for key, payload in given]
        with self._changed:
            if self._stopping:
                raise NotServing("the server is stopping")
            if len(self._items) + len(items) > self.room:
                raise QueueFull("too many requests wait: ask again later")
            self._items += items
            self._changed.notify()
        return [item.answer for item in items]

    def stop(self, timeout: float | None = None) -> bool:
        """Takes nothing more; whether all is answered within so long."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while batch := self._next():
            running = [
                item
                for item in batch
                if item.answer.set_running_or_notify_cancel()
            ]
            if running:
                self._answer(running)

    def _next(self) -> list[Item]:
        """The next batch; none where it was stopped and all is answered."""
        with self._changed:
            while True:
                if not self._items:
                    if self._stopping:
                        return []
                    self._changed.wait()
                    continue
                first = self._items[0]
                alike = [i for i in self._items if i.key == first.key]
                alike = alike[: self._most]
                left = first.since + self._wait - time.monotonic()
                if len(alike) == self._most or left <= 0 or self._stopping:
                    taken = set(map(id, alike))
                    self._items = [i for i in self._items if id(i) not in taken]
                    return alike
                self._changed.wait(left)

    def _answer(self, items: list[Item]) -> None:
        """Answers a batch; where that fails, its halves, down to one item."""
        try:
            results = self._run([item.payload for item in items])
        except BaseException as error:  # whatever a model raises
            if len(items) == 1:
                log_failure(error)
                items[0].answer.set_exception(error)
                return
            half = len(items) // 2
            self._answer(items[:half])
            self._answer(items[half:])
            return
        for item, result in zip(items, results, strict=True):
            if isinstance(result, BaseException):
                item.answer.set_exception(result)
            else:
                item.answer.set_result(result)
