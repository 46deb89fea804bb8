"""The server as a deployment of Ray Serve: replicas that follow one folder.

A replica is the same application over an engine of its own, so requests for
all adapters are gathered into mixed batches in each of them. Ray's model
multiplexing is not used: it would split batches by adapter.
"""

import argparse
import functools
import signal
import threading
from typing import Any, NoReturn

import ray
from ray import serve

from keras_lora.errors import raise_if
from keras_lora.serve.app import create_app
from keras_lora.serve.options import (
    CONNECTIONS,
    add_arguments,
    limits_of,
    make_engine,
    read_token,
)

NAME = "keras_lora"
CLUSTERS = ("host", "port", "ray", "access_log")
"""Options that a cluster's file has places of its own for."""


def replica(options: argparse.Namespace, token: str | None) -> Any:
    """The application of one replica, which is made where it runs."""
    return create_app(
        functools.partial(make_engine, options),
        token=token,
        can_load=False,
        waits=True,
        limits=limits_of(options),
        drain=options.drain,
    )


def application(options: argparse.Namespace, token: str | None = None) -> Any:
    """What `serve.run` takes.

    Args:
        options: Those of `keras-lora serve`.
        token: What clients have to send, or None.
    """

    def build() -> Any:  # Ray tells a builder from an application by its type
        return replica(options, token)

    return serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        **scale(options),
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        # The engine's own queue is what fills: it answers 429 at once.
        max_ongoing_requests=CONNECTIONS,
        max_queued_requests=CONNECTIONS,
        graceful_shutdown_timeout_s=options.drain,
    ).bind()


def scale(options: argparse.Namespace) -> dict[str, Any]:
    """So many replicas, or as many as the load asks for."""
    if options.max_replicas is None:
        return {"num_replicas": options.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": options.replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.max_batch,
        }
    }


class Parser(argparse.ArgumentParser):
    """Raises where the command would print and end the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{NAME}'s application was not built: {message}")


def app(settings: dict[str, Any]) -> Any:
    """The builder that a cluster's file names: `keras_lora.serve.ray:app`.

    Args:
        settings: The options of `keras-lora serve` by name, with underscores;
            `base` and `adapters` are needed.

    Raises:
        ValueError: An option is missing, unknown or wrong.
    """
    parser = Parser(prog=NAME, allow_abbrev=False)
    add_arguments(parser)
    known = vars(parser.parse_args(["", "--adapters", ""]))
    raise_if(
        f"{NAME}'s application was not built",
        [
            f"{name}: the cluster's file says it elsewhere"
            for name in CLUSTERS
            if name in settings
        ]
        + [f"{name}: no option" for name in settings if name not in known],
    )
    words = []
    for name, value in settings.items():
        if value is None or value is False:
            continue
        option = [] if name == "base" else [f"--{name.replace('_', '-')}"]
        words += option if value is True else [*option, str(value)]
    options = parser.parse_args(words)
    return application(options, read_token(options.token_file))


def serve_on_ray(options: argparse.Namespace, token: str | None) -> int:
    """Runs the deployment until a signal."""
    raise_if(
        "Nothing is served",
        [
            f"--{name.replace('_', '-')}: at least 1"
            for name in ("replicas", "max_replicas")
            if (value := getattr(options, name)) is not None and value < 1
        ],
    )
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False)
    alone = no_applications()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())  # after Ray's own
    serve.start(
        http_options={
            "host": options.host,
            "port": options.port,
            "request_timeout_s": None,
        }
    )
    try:
        serve.run(application(options, token), name=NAME, route_prefix="/")
        ended.wait()
    finally:
        serve.delete(NAME)
        if alone and no_applications():
            serve.shutdown()
        if ours:
            ray.shutdown()
    return 0


def no_applications() -> bool:
    """Whether Ray Serve runs none: what others run is not ended."""
    return not serve.status().applications
