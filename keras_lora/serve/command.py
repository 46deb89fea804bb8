"""`keras-lora serve`: from a command line to a server that runs."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from keras_lora.bank.adapter import wrong_name
from keras_lora.errors import printable, raise_if
from keras_lora.files.regular import read_regular

EXTRA = 'pip install "keras-lora[serve]"'
TOKEN = "KERAS_LORA_TOKEN"
SHORTEST_TOKEN = 16
CONNECTIONS = 1000
LOCAL = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "base",
        help="a .keras file, a KerasHub preset's folder, or module:function, "
        "which gives a base, or a base and a preprocessor",
    )
    add = parser.add_argument
    add("--adapters", type=Path, required=True, help="the folder to follow")
    add("--name", default="base", help="what clients call the base")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add(
        "--token-file",
        type=Path,
        help=f"a file with the token that clients send; or set {TOKEN}",
    )
    add("--capacity", type=int, default=32, help="adapters in slots at once")
    add("--rank", type=int, help="the largest rank to expect")
    add("--max-batch", type=int, default=32, help="rows in a forward pass")
    add("--max-generations", type=int, default=8, help="prompts at a time")
    add("--max-length", type=int, help="tokens, prompt and answer together")
    add("--max-streams", type=int, default=4, help="streams at a time")
    add("--max-body", type=int, default=4 << 20, help="bytes of a request")
    add("--queue", type=int, default=256, help="rows that may wait")
    add("--wait", type=float, default=4, help="ms that a row waits for others")
    add("--poll", type=float, default=1, help="s between looks at the folder")
    add("--drain", type=int, default=30, help="s that the end may take")
    add(
        "--sampler",
        default="greedy",
        help="how a language model from a preset chooses tokens: greedy, "
        "top_k, top_p, random, beam, contrastive",
    )
    add("--access-log", action="store_true", help="a line a request")


def serve(options: argparse.Namespace) -> int:
    """Serves until a signal; the exit code is 1 where it did not start."""
    try:
        import uvicorn

        from keras_lora.serve.app import create_app
        from keras_lora.serve.gate import Limits
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
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        lambda observe: make_engine(options, observe),
        token=token,
        limits=Limits(
            body=options.max_body,
            requests=options.queue + 2 * options.max_batch,
        ),
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
    server.run()
    for failure in failures:
        print(f"keras-lora: {printable(str(failure))}", file=sys.stderr)
    return int(bool(failures) or not server.started)


def make_engine(options: argparse.Namespace, observe: Any) -> Any:
    """The engine that the options ask for."""
    from keras_lora.bank import AdapterBank
    from keras_lora.serve.base import read_base
    from keras_lora.serve.engine import Engine

    base, preprocessor = read_base(options.base, options.sampler)
    targets = None if options.rank is None else "all-linear"
    bank = AdapterBank(
        base, options.capacity, rank=options.rank, targets=targets
    )
    return Engine(
        bank,
        folder=options.adapters,
        preprocessor=preprocessor,
        base_name=options.name,
        max_batch=options.max_batch,
        max_generations=options.max_generations,
        max_streams=options.max_streams,
        max_length=options.max_length,
        wait=options.wait / 1e3,
        queue=options.queue,
        poll=options.poll,
        observe=observe,
    )


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None where there is none."""
    text = os.environ.get(TOKEN)
    if file is not None:
        try:
            text = read_regular(file, 10_000).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: the token was not read") from error
    if text is None:
        return None
    token = text.strip()
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < SHORTEST_TOKEN or not plain:
        raise ValueError(
            f"a token is at least {SHORTEST_TOKEN} printable ASCII characters "
            "without spaces"
        )
    return token
