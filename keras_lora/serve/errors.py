"""Why a request is not answered."""

import logging
import re

from keras_lora.errors import printable

LOG = logging.getLogger("keras_lora")
PATH = re.compile(
    r"""(?P<quote>['"`])(?:[A-Za-z]:[\\/]|[/\\])[^'"`\n]+(?P=quote)"""
    r"""|(?<!\w)[A-Za-z]:\\[^\s'"`:]*"""
    r"""|(?<![\w.])/(?:[\w.~+-]+/)*[\w~+-][\w.~+-]*/?"""
)
"""A path of the server's, which is no client's business."""
REFUSING = ("InvalidArgumentError", "IndexError")
"""Errors by which backends refuse values, such as a token of no table."""


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


def without_paths(text: str) -> str:
    """A text for clients: no path but one with spaces and without quotes."""
    return PATH.sub("(a path)", printable(text))


def is_own(error: BaseException) -> bool:
    """Whether an error's text is this library's alone, and fit for anybody.

    One that was raised of another's error quotes that.
    """
    cause, place = error.__cause__, error.__traceback__
    if cause is not None and not is_own(cause):
        return False
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    name = "" if place is None else place.tb_frame.f_globals.get("__name__", "")
    return type(error) is ValueError and str(name).startswith("keras_lora.")


def is_fault(error: BaseException) -> bool:
    """Whether an error is the server's own, and not what it was given."""
    if isinstance(error, ServeError | ValueError):
        return False
    return not any(kind.__name__ in REFUSING for kind in type(error).__mro__)


def log_failure(error: BaseException) -> None:
    """Tells the log what a client is not told."""
    if is_fault(error):
        LOG.error("the server failed", exc_info=error)
    elif not isinstance(error, ServeError) and not is_own(error):
        why = printable(str(error))[:500]
        LOG.warning("refused: %s: %s", type(error).__name__, why)
