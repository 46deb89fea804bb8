"""The server's temporary folder: gone when it ends, or at the next start."""

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

PREFIX = "keras_lora-demo-"
LOCK = "in-use"
"""A file that the server keeps locked; the system lets go when it dies."""


class OwnFolder:
    """A temporary folder that is removed when the process ends.

    A killed process leaves its folder; the next one removes it. A folder is
    taken for left where this user owns it and its lock is free: a name or an
    age would not tell it from one that another server uses.
    """

    def __init__(self) -> None:
        remove_left()
        self._folder = tempfile.TemporaryDirectory(
            prefix=PREFIX, ignore_cleanup_errors=True
        )
        self.path = Path(self._folder.name)
        self._lock = _locked(self.path)


def _locked(folder: Path) -> IO[bytes]:
    """A locked file, which gets its name when it is locked."""
    fresh = folder / f"{LOCK}.new"
    file = fresh.open("wb")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        fresh.rename(folder / LOCK)
    return file


def remove_left() -> None:
    """Removes the folders of servers that were killed."""
    if fcntl is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(folder / LOCK, flags)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(file)
