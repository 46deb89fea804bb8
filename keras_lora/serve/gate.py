"""What every request passes: counting, the token, the size of its body."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from keras_lora.serve.failures import Refused, response

LOG = logging.getLogger("keras_lora")
ASGI = Callable[..., Any]
OPEN = ("/health", "/metrics", "/docs", "/redoc", "/openapi.json")


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    Attributes:
        body: Bytes of one body.
        bodies: Bytes of all that are being read or answered.
        seconds: In which a body has to be there.
        requests: How many of one route are being answered.

    A client that takes nothing of an answer for `seconds` gets no more of it.
    """

    body: int = 4 << 20
    bodies: int = 256 << 20
    seconds: float = 30.0
    requests: int = 320


class NotRead(Exception):
    """A client takes nothing of its answer."""


class Gate:
    """Reads bodies up to a size; asks for the token before that.

    Args:
        app: What answers.
        token: What clients of `/v1` have to know; None for no token.
        limits: What requests may take.
        seen: Told of each request: path, status, seconds.
    """

    def __init__(
        self,
        app: ASGI,
        *,
        token: str | None,
        limits: Limits,
        seen: Callable[[str, int, float], None],
    ) -> None:
        self.app, self.limits, self._seen = app, limits, seen
        self._token = None if token is None else token.encode()
        self._held = 0
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: ASGI, send: ASGI) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self.limits.seconds):
                    await send(message)
            except TimeoutError:
                raise NotRead from None

        size, path = 0, scope["path"]
        route = "/".join(path.split("/")[:3])  # one for all of /v1/models/x
        try:
            self._check_token(scope)
            if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                body = await self._body(scope, receive)
                size = len(body)
                self._held += size
                receive = replayed(body, receive)
            scope = {**scope, "state": {**scope.get("state", {}), "size": size}}
            with self._one_more(route):
                await self.app(scope, receive, counted)
        except NotRead:
            LOG.warning("a client does not read its answer")
        except Refused as error:
            answer = response(error)
            if error.code == "body":  # the rest of it is not read
                answer.headers["connection"] = "close"
            await answer(scope, receive, counted)
        finally:
            self._held -= size
            self._seen(path, status, time.perf_counter() - start)

    @contextlib.contextmanager
    def _one_more(self, route: str) -> Iterator[None]:
        """Counts a request while it is answered, or refuses it at once."""
        if self._running[route] >= self.limits.requests:
            raise Refused(
                429, "too many requests: ask again later", "queue_full"
            )
        self._running[route] += 1
        try:
            yield
        finally:
            self._running[route] -= 1
            if not self._running[route]:
                del self._running[route]

    def _check_token(self, scope: Any) -> None:
        if self._token is None or scope["path"] in OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        right = hmac.compare_digest(token.strip(), self._token)
        if kind.lower() != b"bearer" or not right:
            raise Refused(
                401, "a token is needed, and it is not this one", "token"
            )

    async def _body(self, scope: Any, receive: ASGI) -> bytes:
        most = self.limits.body
        too_large = Refused(413, f"a body has at most {most:,} bytes", "body")
        stated = dict(scope["headers"]).get(b"content-length", b"")
        if stated.isdigit() and int(stated[:20]) > most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the client has left", "body")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large
                    self._take(len(part))
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            seconds = self.limits.seconds
            raise Refused(
                408, f"the body was not there within {seconds:g} s", "body"
            ) from None
        finally:
            self._held -= sum(map(len, parts))

    def _take(self, size: int) -> None:
        if self._held + size > self.limits.bodies:
            raise Refused(
                429, "too many large requests: ask again later", "body"
            )
        self._held += size


def replayed(body: bytes, receive: ASGI) -> ASGI:
    """Gives a body that was read once more, then what comes after it."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
