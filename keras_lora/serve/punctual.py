"""HTTP connections that are closed where a client sends no whole request."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Punctual(H11Protocol):
    """Uvicorn's, which waits for a request's head without end.

    Attributes:
        seconds: In which a head has to be there; twice that at most.
    """

    seconds = 10.0

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override]
    ) -> None:
        """Begins to look after a connection."""
        super().connection_made(transport)
        self.loop.call_later(self.seconds, self._look, False, None)

    def _look(self, was_idle: bool, last: Any) -> None:
        """Closes a connection without a request since the last look.

        While a request is answered it is not idle.
        """
        if self.transport.is_closing():
            return
        is_idle = (
            self.conn.their_state is h11.IDLE
            or self.conn.our_state is h11.DONE  # and a body goes on
        )
        if is_idle and was_idle and self.scope is last:
            self.transport.close()
        else:
            self.loop.call_later(self.seconds, self._look, is_idle, self.scope)
