"""The shared service, made once in the background while visitors wait."""

import threading

from app.serve.messages import message_of
from app.serve.service import Service, Source
from app.serve.trainer import Trainer


class Loading:
    """Starts the service in a thread of its own.

    A visitor's page may be rerun or closed in the middle of a download; the
    thread goes on, and whoever comes meanwhile sees how far it is.
    """

    def __init__(self, source: Source) -> None:
        self.trainer = Trainer(source)
        self._source = source
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.now: tuple[str, float] = ("Starting", 0.0)
        self.service: Service | None = None
        self.error: str | None = None

    def begin(self) -> None:
        """Starts, or starts again after an error; otherwise does nothing."""
        with self._lock:
            running = self._thread is not None and self._thread.is_alive()
            if running or self.service is not None:
                return
            self.error = None
            self.now = ("Starting", 0.0)
            self._thread = threading.Thread(
                target=self._load, name="loading", daemon=True
            )
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, well or not, after so long at most."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return self.service is not None or self.error is not None

    def _load(self) -> None:
        try:
            self.service = Service.start(self._source, self._tell)
        except Exception as error:
            self.error = message_of(error)

    def _tell(self, title: str, share: float) -> None:
        self.now = (title, min(1.0, max(0.0, share)))
