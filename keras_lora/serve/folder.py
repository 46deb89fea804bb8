"""A folder of adapters that a bank follows."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_lora.bank import AdapterBank
from keras_lora.errors import printable
from keras_lora.serve.errors import NotServing, RefusedAdapter, UnknownAdapter
from keras_lora.serve.scan import Found, Stamp, copied, look, scan

LOG = logging.getLogger("keras_lora")
LONGEST = 4_000


@dataclass(frozen=True)
class Status:
    """How it stands with what is in the folder under a name.

    Attributes:
        state: `"served"`; `"refused"`; `"waiting"`, for a file that changes
            still; or `"unloaded"`, by `unload`.
        problem: Why it was refused.
    """

    state: str
    problem: str = ""


class FolderWatcher:
    """Serves what lies in a folder: adapter files and PEFT folders.

    A new one is loaded, a changed one replaced, and one that is gone
    unloaded. One that is refused is not served, until it changes. A file
    that has just changed is left until the next look, as it may be a copy
    half made. Names of files without `.safetensors`, and of folders, are those
    of adapters; what starts with a dot is left alone.

    Args:
        bank: What serves them. Adapters that it has otherwise stay.
        folder: The folder. Links in it are followed.
        every: Seconds between two looks.
        reserved: Names that no adapter may have.

    Attributes:
        status: How it stands with each name, as of the last change.
        problem: Why the folder cannot be read at the moment; else empty.

    Raises:
        ValueError: The folder cannot be read.
    """

    def __init__(
        self,
        bank: AdapterBank,
        folder: str | os.PathLike[str],
        *,
        every: float = 1.0,
        reserved: Collection[str] = (),
    ) -> None:
        self.path, self.every = Path(folder), every
        self.problem = ""
        self.status: dict[str, Status] = {}
        self._bank, self._reserved = bank, frozenset(reserved)
        self._lock = threading.RLock()
        self._before: dict[str, Stamp] = {}
        self._served: dict[str, Stamp] = {}
        self._unloaded: dict[str, Stamp] = {}
        self._refused: dict[str, tuple[Stamp, str]] = {}
        self._wrong: dict[str, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name="keras_lora folder", daemon=True
        )
        self.look()
        if self.problem:
            raise ValueError(f"{self.path} cannot be read: {self.problem}")

    def start(self) -> None:
        """Looks again and again, in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Looks no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the folder alone, and tells what came of it.

        Who asks for the status does not wait for what is loaded meanwhile.
        """
        with self._lock:
            try:
                yield
            finally:
                self.status = self._now()

    def _now(self) -> dict[str, Status]:
        found = {name: Status("waiting") for name in self._before}
        found |= {name: Status("served") for name in self._served}
        found |= {name: Status("unloaded") for name in self._unloaded}
        problems = {n: why for n, (_, why) in self._refused.items()}
        for name, why in (problems | self._wrong).items():
            found[name] = Status("refused", why)
        return dict(sorted(found.items()))

    def look(self) -> None:
        """Brings the bank to what is in the folder now."""
        with self._changing():
            try:
                found, wrong = scan(self.path)
            except OSError as error:
                # The folder may be away for a moment: what is served stays.
                self.problem = error.strerror or type(error).__name__
                return
            self.problem = ""
            for name in self._reserved & found.keys():
                wrong[name] = "the base is called so"
                del found[name]
            for name, why in wrong.items():
                if name not in self._wrong:
                    LOG.warning("%s is not served: %s", name, why)
            self._wrong = wrong
            for known in (self._refused, self._unloaded):
                for name in known.keys() - found.keys():
                    del known[name]
            for name in self._served.keys() - found.keys():
                self._drop(name)
                LOG.info("%s is gone from the folder", name)
            for name, one in found.items():
                if self._is_news(name, one) and self._is_settled(name, one):
                    self._load(name, one)
            self._before = {name: one.stamp for name, one in found.items()}

    def load(self, name: str) -> None:
        """Takes up what is in the folder under a name at once.

        Raises:
            UnknownAdapter: There is nothing.
            RefusedAdapter: It is no adapter for the base.
            NotServing: The folder cannot be read at the moment.
        """
        with self._changing():
            try:
                found, wrong = scan(self.path)
            except OSError as error:
                raise NotServing("the folder cannot be read") from error
            if name in wrong or name in self._reserved:
                raise RefusedAdapter(wrong.get(name, "the base is called so"))
            if name not in found:
                raise UnknownAdapter(name)
            self._unloaded.pop(name, None)
            self._before[name] = found[name].stamp
            if self._served.get(name) != found[name].stamp:
                self._load(name, found[name])
            if name in self._refused:
                raise RefusedAdapter(self._refused[name][1])
            if name not in self._served:
                raise RefusedAdapter("it changes while it is read")

    def unload(self, name: str) -> None:
        """Serves a name no more, until `load`, or until its file changes.

        Raises:
            UnknownAdapter: It is not served.
        """
        with self._changing():
            if name not in self._served:
                raise UnknownAdapter(name)
            stamp = self._served[name]
            self._drop(name)
            self._unloaded[name] = stamp

    def _is_news(self, name: str, one: Found) -> bool:
        """Whether it is another than what is known under the name."""
        if self._unloaded.get(name) == one.stamp:
            return False
        if self._served.get(name) == one.stamp:
            return False
        return self._refused.get(name, ((), ""))[0] != one.stamp

    def _is_settled(self, name: str, one: Found) -> bool:
        """Whether nobody writes to it, as far as can be told."""
        age = time.time() - one.changed
        return age > self.every or self._before.get(name) == one.stamp

    def _load(self, name: str, one: Found) -> None:
        self._unloaded.pop(name, None)
        _, before = self._refused.pop(name, ((), ""))
        stamp, why = one.stamp, ""
        try:
            with tempfile.TemporaryDirectory(prefix="keras_lora-") as folder:
                copy = copied(one, Path(folder))
                again = look(one.path)
                if again is None or again.stamp != one.stamp:
                    return  # somebody writes to it
                why = self._try(name, copy)
        except OSError as error:  # such as a full disk: the next look tries
            stamp, why = (), error.strerror or type(error).__name__
        if not why:
            self._served[name] = stamp
            LOG.info("%s is served", name)
            return
        if name in self._served:
            self._drop(name)
        self._refused[name] = stamp, why
        if why != before:
            LOG.warning("%s is not served: %s", name, why)

    def _try(self, name: str, copy: Path) -> str:
        """Loads a copy; says why where that is refused."""
        try:
            self._bank.load(name, copy)
        except OSError:
            raise
        except Exception as error:
            return self._without_paths(error, copy.parent)
        return ""

    def _without_paths(self, error: Exception, folder: Path) -> str:
        """An error's text as far as it is any client's business."""
        if not isinstance(error, ValueError):
            return f"it cannot be loaded ({type(error).__name__})"
        text = str(error)
        for path in (folder, self.path.resolve(), self.path.absolute()):
            text = text.replace(f"{path}{os.sep}", "")
        return printable(text)[:LONGEST]

    def _drop(self, name: str) -> None:
        """Serves a name no more; the bank may refuse it."""
        if name in self._bank.names:
            self._bank.unload(name)
        del self._served[name]

    def _follow(self) -> None:
        while not self._ended.wait(self.every):
            try:
                self.look()
            except Exception:  # the next look may go well
                LOG.exception("the folder of adapters was not followed")
