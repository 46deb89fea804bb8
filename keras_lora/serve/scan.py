"""What lies in a folder of adapters, by name, and when it changed."""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from keras_lora.bank.adapter import wrong_name
from keras_lora.errors import printable
from keras_lora.files.regular import open_regular
from keras_lora.peft.folder import CONFIG, PICKLE, TENSORS

ENDING = ".safetensors"
MOST_ADAPTERS = 10_000
MOST_BYTES = 4 << 30
"""The largest file that is taken."""
Stamp = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Found:
    """An adapter in the folder.

    Attributes:
        path: Its file, or PEFT folder.
        is_folder: Whether it is a PEFT folder.
        stamp: What tells it from one that takes its place: inode, times of
            its data's and its own change in nanoseconds, and size, of each of
            its files.
    """

    path: Path
    is_folder: bool
    stamp: Stamp

    @property
    def changed(self) -> float:
        """When it last changed, seconds since the epoch; 0 if it has gone."""
        return max((part[1] for part in self.stamp if part), default=0) / 1e9


def scan(folder: Path) -> tuple[dict[str, Found], dict[str, str]]:
    """The adapters in a folder by name, and what is wrong with others.

    Raises:
        OSError: The folder cannot be read.
    """
    found: dict[str, Found] = {}
    wrong: dict[str, str] = {}
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries)
    for file in files:
        if file.startswith("."):  # parts of copies, and ".." of volumes
            continue
        one = look(folder / file)
        if one is None:
            continue
        name = file if one.is_folder else file.removesuffix(ENDING)
        problems = wrong_name(name)
        if problems:
            wrong[printable(file)[:100]] = problems[0]
        elif name in found:
            wrong[name] = "a file and a folder are called so"
        elif len(found) >= MOST_ADAPTERS:
            wrong[name] = f"more than {MOST_ADAPTERS:,} adapters"
        else:
            found[name] = one
    for name in wrong:
        found.pop(name, None)
    return found, wrong


def look(path: Path) -> Found | None:
    """What lies at a path, if it is to be an adapter."""
    if os.path.exists(path / CONFIG):
        names = (CONFIG, TENSORS, PICKLE)
        return Found(path, True, tuple(stamp_of(path / name) for name in names))
    if path.name.endswith(ENDING) and not os.path.isdir(path):
        stamp = stamp_of(path)
        return None if stamp is None else Found(path, False, (stamp,))
    return None


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another in its place; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def copied(one: Found, folder: Path) -> Path:
    """A copy of its own of what was found, in an empty folder.

    It is read as bytes, not mapped into memory: somebody may write to it.

    Raises:
        OSError: It cannot be read.
    """
    target = folder / one.path.name
    if not one.is_folder:
        copy(one.path, target)
        return target
    target.mkdir()
    for name in (CONFIG, TENSORS):
        if os.path.exists(one.path / name):
            copy(one.path / name, target / name)
    if os.path.exists(one.path / PICKLE):  # what it is is told by its name
        (target / PICKLE).touch()
    return target


def copy(source: Path, target: Path) -> None:
    """Copies a regular file that is not too large."""
    with open_regular(source) as file, open(target, "wb") as out:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            why = f"{size:,} bytes are over {MOST_BYTES:,}"
            raise OSError(errno.EFBIG, why)
        shutil.copyfileobj(file, out)
