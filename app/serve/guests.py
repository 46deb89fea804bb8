"""Adapters that visitors bring or train: checked, named apart, let go."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras_lora
from app.serve.limits import (
    MAX_CLASSES,
    MAX_FILE_BYTES,
    MAX_UPLOAD_MEGABYTES,
    adapter_problems,
)
from app.serve.messages import visible
from app.serve.served import Served
from app.serve.service import Service
from app.texts.tasks import TASKS
from keras_lora.errors import raise_if

MOST = 4
"""Adapters that one visitor may keep at a time."""


class Shelf:
    """One visitor's own adapters in the shared bank.

    Their names in the bank are random, so that no two visitors' files can
    take each other's place; nobody else sees them. All visitors together have
    the service's `room`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._served: dict[str, Served] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def adapters(self) -> list[Served]:
        """This visitor's adapters, oldest first."""
        return list(self._served.values())

    def add(
        self,
        data: bytes,
        file_name: str,
        labels: Sequence[str] = (),
        **known: Any,
    ) -> Served:
        """Checks a file's header, then loads it.

        Args:
            data: the file.
            file_name: what the visitor calls it.
            labels: one for each class; where there are none, those in the
                file, else those of the shipped task in the file's name, else
                "class 0" and so on.
            **known: what else is known of it, as `Served` has it: `probe`,
                `results`, `splits`.

        Raises:
            ValueError: everything wrong with it; nothing was loaded.
        """
        title = self._own_title(shown_name(file_name))
        what = f"{title} was not loaded"
        problems = []
        if len(data) > MAX_FILE_BYTES:
            problems.append(
                f"{len(data) / 2**20:.1f} MB is too large; at most "
                f"{MAX_UPLOAD_MEGABYTES} MB are taken"
            )
        with self._lock:
            if self._closed:
                problems.append("its visitor has left")
            if len(self._served) >= MOST:
                problems.append(
                    f"you have {MOST} adapters here already: remove one first"
                )
            raise_if(what, problems)
            name = f"guest-{secrets.token_hex(6)}"
            full = self._service.room.take(name, len(data))
            raise_if(what, [full] if full else [])
            file = self._service.folder / f"{name}.safetensors"
            try:
                file.write_bytes(data)
                self._served[name] = replace(
                    self._load(name, title, file, labels, what), **known
                )
            except BaseException as error:
                file.unlink(missing_ok=True)
                self._service.room.give_back(name)
                if isinstance(error, OSError):
                    raise_if(what, ["the server could not store it"])
                if not isinstance(error, ValueError):
                    raise
                # The visitor knows the file by its own name.
                text = str(error).replace(str(file), title)
                raise ValueError(text.replace(repr(name), title)) from None
            return self._served[name]

    def _own_title(self, title: str) -> str:
        """The title, with a number where it is taken."""
        served = [*self._service.shipped.tasks, *self.adapters]
        taken = {other.title for other in served}
        number, found = 1, title
        while found in taken:
            number += 1
            found = f"{title} {number}"
        return found

    def _load(
        self,
        name: str,
        title: str,
        file: Path,
        labels: Sequence[str],
        what: str,
    ) -> Served:
        info = keras_lora.inspect_adapter(file)
        problems = adapter_problems(
            info,
            self._service.low_rank,
            self._service.bottlenecks,
            self._service.blocks,
        )
        found = _class_count(info)
        labels = tuple(labels) or info.labels or default_labels(title, found)
        if info.head is not None and not 2 <= found <= MAX_CLASSES:
            problems.append(
                f"its head tells {found} classes apart; 2 to {MAX_CLASSES} "
                "can be shown"
            )
        elif info.head is not None and len(labels) != found:
            problems.append(
                f"{len(labels)} labels were given for {found} classes"
            )
        raise_if(what, problems)
        self._service.bank.load(name, file)
        served = Served(name, title, labels, file, info, info.about)
        self._service.check_classes(served)
        return served

    def remove(self, name: str) -> None:
        """Unloads one of this visitor's adapters; others are left alone."""
        with self._lock:
            self._remove(name)

    def close(self) -> None:
        """Unloads them all, when the visitor has left; none is added then."""
        with self._lock:
            self._closed = True
            for name in list(self._served):
                self._remove(name)

    def _remove(self, name: str) -> None:
        served = self._served.pop(name, None)
        if served is not None:
            self._service.bank.unload(name)
            served.file.unlink(missing_ok=True)
            self._service.room.give_back(name)


def shown_name(file_name: str) -> str:
    """A file's name without folder and ending, as much as there is room for."""
    stem = visible(file_name.replace("\\", "/").rpartition("/")[2])
    for ending in (".safetensors", ".csv"):
        stem = stem.removesuffix(ending)
    return stem.strip(" .")[:40] or "adapter"


def default_labels(title: str, classes: int) -> tuple[str, ...]:
    """The labels of the task that a file is named after, or numbers."""
    for task in TASKS.values():
        if title.startswith(task.name) and len(task.labels) == classes:
            return task.labels
    return tuple(f"class {number}" for number in range(classes))


def _class_count(info) -> int:
    """Outputs of a stored head's last layer; 0 where it does not say."""
    for layer in reversed(info.head["layers"] if info.head else []):
        if type(units := layer["config"].get("units")) is int:
            return units
    return 0
