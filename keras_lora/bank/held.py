"""A base that is kept from training, and held by one thread at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from keras_lora.bank.inputs import symbolic_inputs
from keras_lora.model import surgery
from keras_lora.model.compiled import KEEPER, Keeper
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer

SERVED = "it is served by an AdapterBank: `detach` the bank first"
PLAIN_CALLS = (
    "predict",
    "predict_on_batch",
    "evaluate",
    "test_on_batch",
    "generate",
)
"""What a caller may do with the base itself; the bank waits meanwhile."""


class HeldBase:
    """A base, the lock over it, and what was changed in it for the while."""

    def __init__(self, base: Layer, layers: Layers) -> None:
        self._base, self._layers = base, layers
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._calls = 0
        self._inputs = symbolic_inputs(base)
        self._weights = list(base.variables)
        self._training = [v for v in self._weights if v.trainable]
        self._restore: list[Callable[[], None]] = []

    def _take_base(self) -> None:
        """Marks the base as served, and keeps it from training."""
        self._freeze()
        keeper = Keeper(self._hold, self._freeze)
        for layer in self._layers.values():
            layer.__dict__[KEEPER] = keeper
            self._restore += surgery.hold_inference(layer, SERVED)
        self._restore += surgery.forbid_training(self._base, SERVED)
        self._restore += surgery.run_within(self._base, PLAIN_CALLS, self._hold)

    def _freeze(self) -> None:
        """Stops the base's weights, which a model around it may have freed."""
        for variable in self._weights:
            variable.trainable = False

    def _leave_base(self) -> None:
        """Makes the base what it was."""
        while self._restore:
            self._restore.pop()()
        for layer in self._layers.values():
            layer.__dict__.pop(KEEPER, None)
        for variable in self._training:
            variable.trainable = True

    @property
    def base(self) -> Any:
        """The base, which is served until `detach`."""
        self._check_attached()
        return self._base

    @property
    def inputs(self) -> Any:
        """The base's inputs as symbolic tensors, in the base's structure."""
        return self._inputs

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """A call that reads the base without the lock; `detach` waits."""
        with self._attached():
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        """Holds the lock over a bank that is not detached."""
        with self._lock:
            self._check_attached()
            yield

    def _hold(self) -> threading.RLock:
        """What keeps others away while the base is called plainly."""
        return self._lock

    def _check_attached(self) -> None:
        if self._base is None:
            raise ValueError("The bank was detached; make a new one")
