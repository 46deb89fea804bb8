"""The routes, each a few lines over the engine."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from keras_lora.bank.adapter import wrong_name
from keras_lora.files.format import AdapterInfo
from keras_lora.serve.bodies import Complete, Load, Predict, Unload
from keras_lora.serve.completions import answer, events, prompts_of, stops_of
from keras_lora.serve.engine import Engine
from keras_lora.serve.errors import RefusedInput, without_paths
from keras_lora.serve.failures import Refused, refusal
from keras_lora.serve.folder import FolderWatcher
from keras_lora.serve.metrics import TYPE, Metrics
from keras_lora.serve.replies import (
    check_count,
    check_size,
    count_of,
    predictions,
)

MODELS = "/v1/models"
PREDICT = "/v1/predict"
COMPLETIONS = "/v1/completions"
LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"
HEALTH = "/health"
METRICS = "/metrics"
SMALL = 8_192
"""Bytes of a body, or numbers of an answer, that are handled at once and not
in a thread of their own."""
ROUTES = (MODELS, PREDICT, COMPLETIONS, LOAD, UNLOAD, HEALTH, METRICS)


class Serving(Protocol):
    """What the routes know of the service."""

    state: str

    @property
    def engine(self) -> Engine:
        """The engine, while it answers."""


def add_routes(
    app: FastAPI, service: Serving, metrics: Metrics, *, can_load: bool
) -> None:
    """Adds all routes to an application."""
    born = int(time.time())

    @app.get(HEALTH, tags=["server"])
    async def health() -> Response:
        """200 once requests are answered; 503 before, and at the end."""
        ready = service.state == "ready"
        return JSONResponse({"status": service.state}, 200 if ready else 503)

    @app.get(METRICS, tags=["server"])
    def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=TYPE)

    @app.get(MODELS, tags=["models"])
    def models() -> dict[str, Any]:
        """The base and its adapters; and those that are not served, and why."""
        return listed(service.engine, born)

    @app.get(MODELS + "/{name}", tags=["models"])
    def model(name: str) -> dict[str, Any]:
        """One of them."""
        engine = service.engine
        info = engine.info(check_name(name))
        return described(engine, born, name, info)

    @app.post(PREDICT, tags=["answers"])
    async def predict(body: Predict, request: Request) -> Response:
        """Answers rows, each by the adapter that it names."""
        engine = service.engine
        if engine.speaks:
            raise RefusedInput("a language model: ask for completions")
        if request.state.size <= SMALL:
            rows = engine.reader.rows(body.inputs)
        else:
            rows = await run_in_threadpool(engine.reader.rows, body.inputs)
        names = body.model
        if isinstance(names, str):
            names = [names] * len(rows)
        if len(names) != len(rows):
            raise RefusedInput(f"{len(names):,} models for {len(rows):,} rows")
        for name in dict.fromkeys(names):
            check_name(name)
        check_size(engine, rows, names)
        found = await all_of(engine.predict(rows, names), "inputs")
        count = count_of(found)
        check_count(count)
        if count <= SMALL:
            return predictions(names, found)
        return await run_in_threadpool(predictions, names, found)

    @app.post(COMPLETIONS, tags=["answers"])
    async def complete(body: Complete) -> Response:
        """Completes prompts, as OpenAI's route does."""
        engine = service.engine
        check_name(body.model)
        sampler = getattr(engine.bank.base, "sampler", None)
        prompts = prompts_of(body, engine.reader.most, sampler)
        stops = stops_of(body)
        engine.own_name(body.model)
        if not engine.speaks:
            raise RefusedInput(
                "the base is no language model: ask it to predict"
            )
        if not body.stream:
            futures = engine.generate(prompts, body.model, body.max_tokens)
            found = await all_of(futures, "prompt")
            return JSONResponse(answer(body.model, found, stops))
        try:
            stream = await run_in_threadpool(
                engine.stream, prompts, body.model, body.max_tokens
            )
        except Exception as error:
            raise refusal(error) from error
        return StreamingResponse(
            events(stream, len(prompts), body, stops),
            media_type="text/event-stream",
        )

    @app.post(LOAD, tags=["models"])
    def load(body: Load) -> dict[str, str]:
        """Takes up at once what lies in the folder under a name."""
        folder = folder_of(service.engine, can_load)
        name = check_name(body.lora_name, "lora_name")
        paths = (None, name, f"{name}.safetensors")
        if body.lora_path not in paths:
            raise Refused(
                400,
                "leave `lora_path` out, or give the name: files come from "
                "the server's folder alone",
                "name",
                "lora_path",
            )
        folder.load(name)
        return {"status": f"{name} is served"}

    @app.post(UNLOAD, tags=["models"])
    def unload(body: Unload) -> dict[str, str]:
        """Serves a name no more, until it is loaded or its file changes."""
        folder = folder_of(service.engine, can_load)
        folder.unload(check_name(body.lora_name, "lora_name"))
        return {"status": f"{body.lora_name} is not served any more"}


def check_name(name: str, param: str = "model") -> str:
    """Refuses what no adapter can be called, such as a path."""
    for problem in wrong_name(name):
        raise Refused(400, problem[:250], "name", param)
    return name


def folder_of(engine: Engine, can_load: bool) -> FolderWatcher:
    """The folder, for those who may load and unload."""
    if not can_load:
        raise Refused(
            403, "loading is off: the server was started without a token", "off"
        )
    if engine.folder is None:
        raise Refused(403, "loading is off: there is no folder", "off")
    return engine.folder


async def all_of(futures: Sequence["Future[Any]"], param: str) -> list[Any]:
    """All results, or the first failure; the rest is not waited for then."""
    try:
        return await asyncio.gather(*map(asyncio.wrap_future, futures))
    except Exception as error:
        for future in futures:
            future.cancel()
        found = refusal(error)
        found.param = found.param or param
        raise found from error


def listed(engine: Engine, born: int) -> dict[str, Any]:
    """What is served, in OpenAI's shape."""
    data = [described(engine, born, engine.base_name, None)]
    for name, info in engine.models.items():
        data.append(described(engine, born, name, info))
    status = {} if engine.folder is None else engine.folder.status
    others = {
        name: {"state": one.state, "problem": without_paths(one.problem)}
        for name, one in status.items()
        if one.state != "served"
    }
    return {"object": "list", "data": data, "not_served": others}


def described(
    engine: Engine, born: int, name: str, info: AdapterInfo | None
) -> dict[str, Any]:
    """An adapter, or the base, which has no info."""
    base = engine.base_name
    found = {
        "id": name,
        "object": "model",
        "created": born,
        "owned_by": "keras_lora",
        "parent": None,
    }
    if info is None:
        return found
    return {
        **found,
        "parent": base,
        "root": base,
        "methods": list(info.methods),
        "labels": list(info.labels),
        "about": info.about,
    }
