"""The options of a server, and the engine that they ask for."""

import argparse
import os
from pathlib import Path
from typing import Any

from keras_lora.files.regular import read_regular

TOKEN = "KERAS_LORA_TOKEN"
SHORTEST_TOKEN = 16
CONNECTIONS = 1000


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
    add("--max-axis", type=int, default=512, help="size of an open axis")
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
    add("--ray", action="store_true", help="as a deployment of Ray Serve")
    add("--replicas", type=int, default=1, help="with --ray: at least so many")
    add(
        "--max-replicas", type=int, help="with --ray: as the load asks, to this"
    )
    add("--cpus", type=float, default=1, help="with --ray: of a replica")
    add("--gpus", type=float, default=0, help="with --ray: of a replica")
    add("--access-log", action="store_true", help="one line for each request")


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
        max_axis=options.max_axis,
        wait=options.wait / 1e3,
        queue=options.queue,
        poll=options.poll,
        observe=observe,
    )


def limits_of(options: argparse.Namespace) -> Any:
    """What requests may take."""
    from keras_lora.serve.gate import Limits

    return Limits(
        body=options.max_body,
        requests=options.queue + 2 * options.max_batch,
    )


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None where there is none."""
    text = os.environ.get(TOKEN)
    if file is not None:
        try:
            text = read_regular(file, 10_000).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError("the file of --token-file was not read") from error
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
