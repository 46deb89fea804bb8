"""Opening files by a path that a stranger may have chosen."""

import errno
import io
import os
import stat
from pathlib import Path

NO_WAITING = getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file to read its bytes.

    A pipe would be waited for, and a device may act on being opened: they are
    looked at before, and once more when open, as they may be swapped.

    Raises:
        OSError: There is no such file, or it is not a regular one.
    """
    try:
        _check(os.stat(path))
        file = open(path, "rb", opener=_open)  # noqa: SIM115, the caller's
    except ValueError as error:  # what no path can have, such as a NUL
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        _check(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        OSError: There is no such file, or it is another kind or too large.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has over {most:,} bytes")
    return data


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | NO_WAITING)


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no file, but a folder or a device")
