"""What went wrong, as a status and a body of OpenAI's shape."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from keras_lora.bank.memory import is_out_of_memory
from keras_lora.serve.errors import (
    NotServing,
    QueueFull,
    RefusedAdapter,
    RefusedInput,
    UnknownAdapter,
    is_fault,
    is_own,
    without_paths,
)

LONGEST = 2_000
KNOWN: dict[type[Exception], tuple[int, str]] = {
    UnknownAdapter: (404, "model_not_found"),
    RefusedInput: (422, "invalid_input"),
    RefusedAdapter: (422, "refused_adapter"),
    QueueFull: (429, "queue_full"),
    NotServing: (503, "not_serving"),
}


class Refused(Exception):
    """A request that is refused with a status."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def refusal(error: BaseException) -> Refused:
    """What a client is told of an error of the engine's."""
    if isinstance(error, Refused):
        return error
    for kind, (status, code) in KNOWN.items():
        if isinstance(error, kind):
            return Refused(status, str(error), code)
    if is_out_of_memory(error):
        return Refused(500, "no memory for this request", "server_error")
    if is_fault(error):
        return Refused(500, "the server failed", "server_error")
    why = str(error) if is_own(error) else type(error).__name__
    return Refused(422, f"the model does not take this: {why}", "invalid_input")


def body_of(
    status: int, message: str, code: str, param: str | None = None
) -> dict[str, Any]:
    """The body that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    text = without_paths(message)[:LONGEST]
    return {
        "error": {"message": text, "type": kind, "param": param, "code": code}
    }


def response(error: BaseException) -> JSONResponse:
    """An error as an answer."""
    found = refusal(error)
    body = body_of(found.status, str(found), found.code, found.param)
    again = {"retry-after": "1"} if found.status in (429, 503) else {}
    if found.status == 401:
        again = {"www-authenticate": "Bearer"}
    return JSONResponse(body, found.status, again)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """For errors of the engine's."""
    return response(error)


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """For bodies that are not of their shape."""
    assert isinstance(error, RequestValidationError)
    found = []
    for one in error.errors()[:5]:
        place = ".".join(str(part)[:50] for part in one["loc"][:6])
        found.append(f"{place}: {one['msg']}")
    return response(Refused(422, "; ".join(found), "invalid_body"))


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """For what the framework refuses: no such route, no such method."""
    assert isinstance(error, HTTPException)
    # A body that its parser gave up, such as one that is nested too deep.
    status = 422 if error.status_code == 400 else error.status_code
    return response(Refused(status, str(error.detail), "refused"))


async def on_bug(request: Request, error: Exception) -> JSONResponse:
    """For what nobody thought of: the client is told nothing of it."""
    return response(Refused(500, "the server failed", "server_error"))
