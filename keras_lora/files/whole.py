"""Writing a file whole or not at all."""

import contextlib
import os
import secrets
import time
from pathlib import Path

from keras_lora.errors import raise_if

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
PAUSES = (0.001, 0.01, 0.05, 0.2, 0.5) if os.name == "nt" else ()
"""Seconds between tries to rename, where a reader may be in the way."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then renames: a crash leaves the old file."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        # Its mode is what the process's umask makes of this one.
        handle = os.open(name, NEW_FILE, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _rename(name, path)
        _sync_folder(path.parent)
    except (OSError, ValueError) as error:  # no path can have a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise_if(f"{path} was not written", [str(reason)])
    finally:
        with contextlib.suppress(OSError, ValueError):  # it was renamed
            os.unlink(name)


def _rename(part: Path, path: Path) -> None:
    """Renames; Windows refuses for as long as a reader has the old file."""
    for pause in PAUSES:
        try:
            return os.replace(part, path)
        except PermissionError:
            time.sleep(pause)
    os.replace(part, path)


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlast a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
