"""`keras-lora serve`: from a command line to a server that runs."""

import argparse
import logging
import signal
import sys

from keras_lora.bank.adapter import wrong_name
from keras_lora.errors import printable, raise_if
from keras_lora.serve.options import (
    CONNECTIONS,
    limits_of,
    make_engine,
    read_token,
)

EXTRA = 'pip install "keras-lora[serve]"'
RAY = 'pip install "keras-lora[serve,ray]"'
LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(options: argparse.Namespace) -> int:
    """Serves until a signal; the exit code is 1 where it did not start."""
    try:
        import uvicorn

        from keras_lora.serve.app import create_app
        from keras_lora.serve.punctual import Punctual
    except ImportError as error:
        raise ValueError(f"serve needs {error.name}: {EXTRA}") from error
    token = read_token(options.token_file)
    raise_if(
        "Nothing is served",
        [f"--name: {problem}" for problem in wrong_name(options.name)],
    )
    logging.basicConfig(format="%(levelname)s: %(message)s", level="INFO")
    if token is None and options.host not in LOCAL:
        logging.warning(
            "whoever reaches %s may ask: there is no token", options.host
        )
    if options.ray:
        return on_ray(options, token)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        lambda observe: make_engine(options, observe),
        token=token,
        limits=limits_of(options),
        drain=options.drain,
        failed=failed,
    )
    config = uvicorn.Config(
        app,
        options.host,
        options.port,
        http=Punctual,
        access_log=options.access_log,
        log_level="info",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=options.drain,
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    # Uvicorn ends by the signal once more; what it was for is done by then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    for failure in failures:
        print(f"keras-lora: {printable(str(failure))}", file=sys.stderr)
    return int(bool(failures) or not server.started)


def on_ray(options: argparse.Namespace, token: str | None) -> int:
    """Serves by replicas on Ray, until a signal."""
    try:
        from keras_lora.serve.ray import serve_on_ray
    except ImportError as error:
        raise ValueError(f"--ray needs {error.name}: {RAY}") from error
    return serve_on_ray(options, token)
