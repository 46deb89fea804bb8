"""The server: an engine behind HTTP routes."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from keras_lora.serve.errors import ServeError
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
from keras_lora.serve.service import MakeEngine, Service
from keras_lora.version import __version__

USUAL = Limits()


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
