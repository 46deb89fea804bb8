"""A bank as a folder: adapter files and one index, written last.

Files are named by a hash of their content, so that none is ever changed. Who
saves holds the folder's lock, and removes what the new index does not name.
Who reads holds none: where a file is gone by then, there is a newer index.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from keras_lora.bank.adapter import NAME, BankAdapter, wrong_name
from keras_lora.bank.lock import locked
from keras_lora.errors import raise_if
from keras_lora.files.format import adapter_bytes, record_of
from keras_lora.files.record import fits, too_deep
from keras_lora.files.regular import open_regular, read_regular
from keras_lora.files.whole import write_whole

INDEX = "bank.json"
MAX_INDEX = 16 << 20
LONGEST_FILE_NAME = 255
OWN = re.compile(NAME.pattern + r"-([0-9a-f]{16})\.safetensors")
PART = re.compile(
    rf"\.({OWN.pattern}|{re.escape(INDEX)})\.[0-9a-f]{{16}}\.part"
)
Made = TypeVar("Made")


def write_folder(
    folder: Path, adapters: list[BankAdapter], settings: dict[str, Any]
) -> None:
    """Writes each adapter under a name of its contents, then the index.

    Until the index is renamed into place, a folder that held a bank holds
    that one, whole.
    """
    what = f"{folder} was not saved"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise_if(what, [str(error)])
    try:
        with locked(folder) as alone:
            try:
                write_bank(folder, adapters, settings)
            finally:
                if alone:
                    remove_unnamed(folder)
    except OSError as error:
        raise_if(what, [str(error)])


def write_bank(
    folder: Path, adapters: list[BankAdapter], settings: dict[str, Any]
) -> None:
    """Writes what is not there yet, and the index."""
    files = {}
    for adapter in adapters:
        data = adapter_bytes(adapter.tensors, record_of(adapter.info))
        file = files[adapter.name] = f"{adapter.name}-{mark(data)}.safetensors"
        if not holds(folder / file, data):
            write_whole(folder / file, data)
    index = {"format": 1, "adapters": files, **settings}
    data = json.dumps(index, indent=1).encode()
    if len(data) > MAX_INDEX:
        raise ValueError(
            f"{folder} was not saved: an index of {len(data):,} bytes; "
            f"{MAX_INDEX:,} are read"
        )
    write_whole(folder / INDEX, data)


def mark(data: bytes) -> str:
    """The hash of a file's content in its name."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def holds(path: Path, data: bytes) -> bool:
    """Whether a file is there and has exactly this content."""
    try:
        return read_regular(path, len(data)) == data
    except OSError:
        return False


def remove_unnamed(folder: Path) -> None:
    """Removes the files of earlier saves that the index does not name.

    They have the hash of their content in their name, or are parts that a
    save left when it was killed. All else is somebody's own. One that cannot
    be removed, as another process reads it, is by a later save.
    """
    named = files_named(folder)
    if named is None:
        return
    # Where a file system takes "A" for "a", one file may have two names.
    kept = {file.casefold() for file in named}
    for file in os.listdir(folder):
        if file.casefold() in kept:
            continue
        if PART.fullmatch(file) or is_own(folder / file):
            with contextlib.suppress(OSError):
                (folder / file).unlink()


def is_own(path: Path) -> bool:
    """Whether a file's name has the hash of its content."""
    found = OWN.fullmatch(path.name)
    if not found:
        return False
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(
                file, lambda: hashlib.blake2b(digest_size=8)
            )
    except OSError:
        return False
    return digest.hexdigest() == found[1]


def files_named(folder: Path) -> set[str] | None:
    """The files that a folder's index names; None where it is not readable."""
    try:
        files = parse_index(folder)["adapters"]
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError):
        return None
    return set(map(str, files.values())) if isinstance(files, dict) else None


def read_folder(folder: Path, make: Callable[[dict[str, Any]], Made]) -> Made:
    """What `make` gives for a folder's index, with all files there.

    Another process may save while the files are read, and remove some. They
    are then read once more, and saves wait.
    """
    before = version_of(folder)
    try:
        return make(read_index(folder))
    except ValueError:
        with contextlib.ExitStack() as stack:
            # There is no lock where nobody has saved.
            with contextlib.suppress(OSError, ValueError):
                stack.enter_context(locked(folder, shared=True))
            if version_of(folder) != before:
                return make(read_index(folder))
        raise


def version_of(folder: Path) -> tuple[int, ...] | None:
    """What tells an index from one that took its place."""
    try:
        found = os.stat(folder / INDEX)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_index(folder: Path) -> dict[str, Any]:
    """A bank folder's index, checked."""
    what = f"{folder} was not restored"
    try:
        index = parse_index(folder)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise_if(what, [f"{INDEX}: {reason}"])
    if not fits(index.get("format"), int) or index["format"] != 1:
        raise ValueError(f"{what}: {INDEX} has an unknown format")
    files = index.get("adapters")
    problems = []
    if not isinstance(files, dict):
        problems.append(f"{INDEX} has no `adapters`")
    else:
        for name, file in files.items():
            problems += wrong_name(name) or wrong_file(folder, name, file)
    for key in ("capacity", "rank", "targets"):
        if key not in index:
            problems.append(f"{INDEX} has no `{key}`")
    raise_if(what, problems)
    return index


def wrong_file(folder: Path, name: str, file: Any) -> list[str]:
    """Says what keeps an adapter's file from being one in this folder."""
    if (
        not isinstance(file, str)
        or not file.isprintable()
        or not 0 < len(os.fsencode(file)) <= LONGEST_FILE_NAME
        or file in (".", "..")
        or any(sign in file for sign in "/\\:")
    ):
        return [f"{name!r}: {str(file)[:200]!r} is no file name"]
    try:
        open_regular(folder / file).close()
    except FileNotFoundError:
        return [f"{name!r}: {file} is missing"]
    except OSError as error:
        return [f"{name!r}: {file}: {error.strerror}"]
    return []


def parse_index(folder: Path) -> dict[str, Any]:
    """The JSON of a bank folder's index, which is an object.

    Raises:
        OSError: It cannot be read, or is too large.
        ValueError: It is something else.
    """
    data = read_regular(folder / INDEX, MAX_INDEX)
    try:
        index = json.loads(data.decode(), object_pairs_hook=once_each)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if too_deep(index):
        raise ValueError("it is nested too deep")
    if not isinstance(index, dict):
        raise ValueError("it is no JSON object")
    return index


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:200]!r} stands there twice")
        found[key] = value
    return found
