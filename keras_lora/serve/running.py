"""Batches as they run on the bank."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_lora.bank import AdapterBank
from keras_lora.bank.completion import Completion
from keras_lora.files.format import AdapterInfo
from keras_lora.serve.answers import Prediction, gives_shares
from keras_lora.serve.errors import UnknownAdapter

Observer = Callable[[str, int, float], None]


class Runner:
    """Runs batches, and tells of them."""

    def __init__(
        self,
        bank: AdapterBank,
        preprocessor: Callable[[list[str]], Any] | None,
        batch_size: int,
        observe: Observer,
    ) -> None:
        self.bank = bank
        self._preprocessor, self._batch_size = preprocessor, batch_size
        self._observe = observe

    def info(self, name: str) -> AdapterInfo | None:
        """What the file of an adapter says, where it is served."""
        try:
            return self.bank.info(name)
        except ValueError:
            return None

    @contextlib.contextmanager
    def serving(self, names: Iterable[str | None]) -> Iterator[None]:
        """Tells an adapter that goes meanwhile from what else is refused."""
        try:
            yield
        except ValueError as error:
            for name in names:
                if name is not None and self.info(name) is None:
                    raise UnknownAdapter(name) from error
            raise

    def predict(self, batch: list[tuple[Any, str | None]]) -> list[Any]:
        """Answers rows of one signature.

        An adapter may be replaced meanwhile: what came out belongs to a file
        for sure where that was there before and after.
        """
        results: list[Any] = [None] * len(batch)
        left = list(range(len(batch)))
        while left:
            infos = {
                name: self.info(name) for _, name in batch if name is not None
            }
            for place in left:
                name = batch[place][1]
                if name is not None and infos[name] is None:
                    results[place] = UnknownAdapter(name)
            left = [place for place in left if results[place] is None]
            if not left:
                break
            outputs = self._run([batch[place] for place in left])
            for place, row in zip(left, outputs, strict=True):
                name = batch[place][1]
                info = None if name is None else infos[name]
                if name is None or self.info(name) is info:
                    results[place] = self._prediction(row, info)
            left = [place for place in left if results[place] is None]
        return results

    def _run(self, batch: list[tuple[Any, str | None]]) -> list[Any]:
        rows, names = zip(*batch, strict=True)
        start = time.perf_counter()
        if not isinstance(rows[0], str):
            x = keras.tree.map_structure(lambda *a: np.stack(a), *rows)
        elif self._preprocessor is not None:
            x = self._preprocessor(list(rows))
        else:
            x = list(rows)
        with self.serving(names):
            outputs: list[Any] = self.bank.predict(
                x, list(names), self._batch_size
            )
        self._tell("predict", names, start)
        return outputs

    def _prediction(self, row: Any, info: AdapterInfo | None) -> Prediction:
        shares = None
        if info is not None and info.labels:
            shares = gives_shares(info, self.bank.base)
        return Prediction(row, info, shares)

    def generate(
        self,
        batch: list[tuple[str, str | None, int]],
        batch_size: int,
        max_length: int | None,
    ) -> list[Completion]:
        prompts, names, more = zip(*batch, strict=True)
        start = time.perf_counter()
        with self.serving(names):
            found = self.bank.complete(
                prompts,
                list(names),
                list(more),
                batch_size,
                max_length=max_length,
            )
        self._tell("generate", names, start)
        return found

    def _tell(self, kind: str, names: Sequence[Any], start: float) -> None:
        self._observe(kind, len(names), time.perf_counter() - start)
