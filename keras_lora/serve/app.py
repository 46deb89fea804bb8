"""The server: an engine behind HTTP routes."""

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from keras_lora.serve.engine import Engine
from keras_lora.serve.errors import NotServing, ServeError
from keras_lora.serve.failures import (
    Refused,
    on_bug,
    on_error,
    on_http,
    on_invalid,
)
from keras_lora.serve.gate import Gate, Limits
from keras_lora.serve.metrics import Metrics
from keras_lora.serve.routes import ROUTES, add_routes
from keras_lora.serve.running import Observer
from keras_lora.version import __version__

LOG = logging.getLogger("keras_lora")
USUAL = Limits()
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
        self._make, self._observe, self._failed = make, observe, failed
        self._thread = threading.Thread(
            target=self._start, name="keras_lora start", daemon=True
        )

    def start(self, waits: bool) -> None:
        """Begins to make the engine; may wait until it is there, or raise."""
        self._thread.start()
        if waits:
            self._thread.join()
            if self.found is None:
                raise RuntimeError("the engine was not made")

    def _start(self) -> None:
        try:
            engine = self._make(self._observe)
        except Exception as error:
            self.state = "failed"
            self._failed(error)
            return
        self.found = engine
        if self.state == "starting":
            self.state = "ready"

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
        self.state = "stopping"
        if self.found is not None and not self.found.stop(timeout):
            LOG.warning("not all was answered within %g s", timeout)


def create_app(
    make: MakeEngine,
    *,
    token: str | None = None,
    limits: Limits = USUAL,
    drain: float = 30.0,
    can_load: bool = True,
    waits: bool = False,
    failed: Callable[[Exception], None] = lambda error: None,
) -> FastAPI:
    """An ASGI application over an engine.

    Args:
        make: Makes the engine, given what it is to `observe`; it is called in
            a thread when the server starts, and until it is done all is
            answered by 503.
        token: What clients have to send as `Authorization: Bearer TOKEN` to
            the routes under `/v1`. None: nothing, and no client can load or
            unload.
        limits: What requests may take.
        drain: Seconds that the end waits for what was taken.
        can_load: Whether clients with the token may load and unload.
        waits: Whether the application starts only once the engine is there.
        failed: Told why the engine could not be made.
    """
    metrics = Metrics(lambda: service.found, ROUTES)
    service = Service(make, metrics.batch, failed)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start, waits)
        try:
            yield
        finally:
            await run_in_threadpool(service.stop, drain)

    app = FastAPI(
        title="keras_lora",
        version=__version__,
        description="One base, many adapters, each request its own.",
        lifespan=lifespan,
        redoc_url=None,
    )
    handlers: dict[Any, Any] = {
        ServeError: on_error,
        Refused: on_error,
        RequestValidationError: on_invalid,
        HTTPException: on_http,
        Exception: on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Gate, token=token, limits=limits, seen=metrics.request)
    app.state.service = service
    add_routes(app, service, metrics, can_load=can_load and token is not None)
    return app
