"""A bank as a folder: adapter files and one index, written last."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from keras_lora.bank.adapter import BankAdapter, wrong_name
from keras_lora.errors import raise_if
from keras_lora.files.format import adapter_bytes, record_of, write_whole

INDEX = "bank.json"


def write_folder(
    folder: Path, adapters: list[BankAdapter], settings: dict[str, Any]
) -> None:
    """Writes each adapter under a name of its contents, then the index.

    Until the index is renamed into place, a folder that held a bank holds
    that one, whole; files that only it named are removed after that.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} was not saved: {error}") from error
    stale = files_of(folder)
    files = {}
    for adapter in adapters:
        data = adapter_bytes(adapter.tensors, record_of(adapter.info))
        mark = hashlib.blake2b(data, digest_size=8).hexdigest()
        files[adapter.name] = f"{adapter.name}-{mark}.safetensors"
        if not holds(folder / files[adapter.name], data):
            write_whole(folder / files[adapter.name], data)
    index = {"format": 1, "adapters": files, **settings}
    write_whole(folder / INDEX, json.dumps(index, indent=1).encode())
    for old in stale - set(files.values()):
        (folder / old).unlink(missing_ok=True)


def holds(path: Path, data: bytes) -> bool:
    """Whether a file is there and has exactly this content."""
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def files_of(folder: Path) -> set[str]:
    """The adapter files of the bank that a folder holds, if it holds one.

    Only such as `write_folder` names: a foreign index removes nothing else.
    """
    try:
        adapters = read_index(folder)["adapters"]
    except ValueError:
        return set()
    return {
        file
        for name, file in adapters.items()
        if re.fullmatch(re.escape(name) + r"-[0-9a-f]{16}\.safetensors", file)
    }


def read_index(folder: Path) -> dict[str, Any]:
    """A bank folder's index, checked."""
    what = f"{folder} was not restored"
    try:
        index = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {INDEX}: {error}") from error
    if not isinstance(index, dict) or index.get("format") != 1:
        raise ValueError(f"{what}: {INDEX} has an unknown format")
    files = index.get("adapters")
    problems = []
    if not isinstance(files, dict):
        problems.append(f"{INDEX} has no `adapters`")
    else:
        for name, file in files.items():
            problems += wrong_name(name)
            if not isinstance(file, str) or Path(file).name != file:
                problems.append(f"{name!r}: {file!r} is no file name")
            elif not (folder / file).is_file():
                problems.append(f"{name!r}: {file} is missing")
    for key in ("capacity", "rank", "targets"):
        if key not in index:
            problems.append(f"{INDEX} has no `{key}`")
    raise_if(what, problems)
    return dict(index)
