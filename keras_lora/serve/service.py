"""The engine's life behind a server: made, ready, stopping."""

import logging
import threading
from collections.abc import Callable

from keras_lora.serve.engine import Engine
from keras_lora.serve.errors import NotServing
from keras_lora.serve.running import Observer

LOG = logging.getLogger("keras_lora")
MakeEngine = Callable[[Observer], Engine]


class Service:
    """An engine that is made in the background, and ended with the server.

    Attributes:
        state: `"starting"`, `"ready"`, `"stopping"` or `"failed"`.
        found: The engine, once it is there.
    """

    def __init__(
        self,
        make: MakeEngine,
        observe: Observer,
        failed: Callable[[Exception], None],
    ) -> None:
        self.state = "starting"
        self.found: Engine | None = None
        self._error: Exception | None = None
        self._make, self._observe, self._failed = make, observe, failed
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._start, name="keras_lora start", daemon=True
        )

    def start(self, waits: bool) -> None:
        """Begins to make the engine; may wait until it is there, or raise."""
        self._thread.start()
        if waits:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _start(self) -> None:
        try:
            engine = self._make(self._observe)
        except Exception as error:
            LOG.exception("the server was not started")
            with self._lock:
                self.state, self._error = "failed", error
            self._failed(error)
            return
        with self._lock:
            ready = self.state == "starting"
            if ready:
                self.found, self.state = engine, "ready"
        if not ready:  # the server ended meanwhile
            engine.stop(0)

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotServing: There is none yet, or it ends.
        """
        if self.state != "ready" or self.found is None:
            raise NotServing(f"the server is {self.state}")
        return self.found

    def stop(self, timeout: float) -> None:
        """Ends the engine once it has answered what it took."""
        with self._lock:
            self.state = "stopping"
        if self.found is not None and not self.found.stop(timeout):
            LOG.warning("not all was answered within %g s", timeout)
