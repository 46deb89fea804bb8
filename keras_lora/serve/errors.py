"""Why a request is not answered."""

from keras_lora.errors import printable


class ServeError(Exception):
    """A request that is not answered; its text is fit for any client."""


class QueueFull(ServeError):
    """More waits than the queue has room for: ask again in a moment."""


class NotServing(ServeError):
    """The engine does not run yet, or does not any more."""


class UnknownAdapter(ServeError):
    """No adapter of this name is served."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no model {printable(str(name))[:100]!r} is served")


class RefusedInput(ServeError):
    """What was given is not what the base takes."""


class RefusedAdapter(ServeError):
    """A file that is no adapter for the base."""
