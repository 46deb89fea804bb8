"""The server's temporary folder: removed at its end, or by the next one."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.serve import folder as folders
from app.serve.folder import PREFIX, OwnFolder

ROOT = Path(folders.__file__).parents[2]
CODE = """
from app.serve.folder import OwnFolder
folder = OwnFolder()
(folder.path / "file").touch()
print(folder.path, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the test's own, for other processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def server():
    """Starts a process with a folder: the process, and the folder."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_server_that_ends_leaves_nothing(server, temporary):
    process, folder = server()
    assert (folder / "file").exists() and folder.parent == temporary
    process.communicate("\n")
    assert not folder.exists()


def test_a_killed_one_s_folder_goes_at_the_next_start(server):
    process, left = server()
    other, used = server()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "file").exists()
    own = OwnFolder()
    assert not left.exists()
    # That of a server that runs stays.
    assert (used / "file").exists() and other.poll() is None
    assert own.path.is_dir()


def test_only_folders_of_dead_servers_are_removed(temporary, monkeypatch):
    unlocked = temporary / f"{PREFIX}someone"
    unlocked.mkdir()
    (unlocked / "file").touch()
    file = temporary / f"{PREFIX}file"
    file.touch()
    home = temporary / "home"
    home.mkdir()
    (home / folders.LOCK).touch()
    link = temporary / f"{PREFIX}link"
    link.symlink_to(home)
    pipe = temporary / f"{PREFIX}pipe"
    pipe.mkdir()
    (pipe / folders.LOCK).symlink_to(home / folders.LOCK)
    strange = temporary / f"{PREFIX}strange"
    strange.mkdir()
    (strange / folders.LOCK).touch()
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    folders.remove_left()
    assert strange.exists()
    monkeypatch.setattr(os, "getuid", lambda: user)
    folders.remove_left()
    assert not strange.exists()
    for kept in (unlocked / "file", file, link, home / folders.LOCK, pipe):
        assert kept.exists()
