"""What all visitors' adapters together may take of the server."""

import threading

from app.serve.limits import MAX_GUEST_BYTES, MAX_GUESTS


class Room:
    """Counts adapters and their bytes, from whichever thread they come."""

    def __init__(
        self, most: int = MAX_GUESTS, most_bytes: int = MAX_GUEST_BYTES
    ) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, name: str, size: int) -> str | None:
        """Takes so many bytes, or says why there is no room for them."""
        with self._lock:
            count, used = len(self._taken), sum(self._taken.values())
            if count < self._most and used + size <= self._most_bytes:
                self._taken[name] = size
                return None
        return (
            f"there is no room now: {count} adapters of visitors are here, "
            f"{used / 1e6:.0f} MB, and at most {self._most}, "
            f"{self._most_bytes / 1e6:.0f} MB, are kept. Those of a visitor "
            "who leaves are let go: try again later"
        )

    def give_back(self, name: str) -> None:
        """Makes room again; a name that took none is no error."""
        with self._lock:
            self._taken.pop(name, None)
