"""A lock on a bank's folder, between processes; it dies with its holder."""

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "bank.lock"
LONGEST_WAIT = 60.0
PAUSE = 0.005
HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int, shared: bool) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _give_back(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _take(handle: int, shared: bool) -> None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind | fcntl.LOCK_NB)

    def _give_back(handle: int) -> None:
        # A process that was forked meanwhile has the file open, too.
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the lock of a folder: alone, or beside others that share it.

    Only who wants it alone makes its file, which nobody removes: another one
    of its name would be another lock.

    Returns:
        Whether it is held: False where the file system has no locks.

    Raises:
        OSError: Its file cannot be opened, or others held it for too long.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
    handle = os.open(folder / LOCK, flags | CAREFULLY, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, f"{LOCK} is no regular file")
        held = _wait_for(handle, shared)
        try:
            yield held
        finally:
            if held:
                _give_back(handle)
    finally:
        os.close(handle)


def _wait_for(handle: int, shared: bool) -> bool:
    """Takes the lock once it is free; False where there are no locks."""
    end = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            _take(handle, shared)
            return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            if error.errno not in HELD:
                raise
            if time.monotonic() > end:
                words = f"others have held {LOCK} for {LONGEST_WAIT:.0f} s"
                raise OSError(errno.EAGAIN, words) from error
        time.sleep(PAUSE)
