"""Fetching: complete copies only, and plain words when there are none."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.texts import fetch as module
from app.texts.download import DownloadError, pip_download
from app.texts.fetch import FetchError, fetch

FILES = {"fake/a.txt": b"one", "fake/deep/b.txt": b"two", "other.txt": b"no"}


@pytest.fixture
def package(index, cache):
    package = index.package(FILES)
    del package.checks["other.txt"]
    return package


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_only_the_members_asked_for_are_unpacked(package, index):
    folder = fetch(package, download=index.download)
    assert files_in(folder) == {
        "fake/a.txt": b"one",
        "fake/deep/b.txt": b"two",
    }


def test_a_complete_copy_needs_no_download(package, index):
    fetch(package, download=index.download)
    fetch(package, download=offline)
    assert index.downloads == 1


def test_nothing_but_the_copy_is_left_in_the_cache(package, index, cache):
    folder = fetch(package, download=index.download)
    assert list(cache.iterdir()) == [folder]


def test_progress_is_told_and_ends_at_the_whole(package, index):
    told = []
    fetch(package, lambda *now: told.append(now), download=index.download)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0 and 0.5 in shares and shares[-1] == 1
    assert all("fake==1.0" in title for title, _ in told)


def test_progress_is_shown_on_stderr_by_default(package, index, capsys):
    fetch(package, download=index.download)
    captured = capsys.readouterr()
    assert "fake==1.0" in captured.err and not captured.out


def offline(package, folder, progress):
    raise DownloadError("no connection")


def test_offline_names_the_package_and_what_to_do(package, cache):
    with pytest.raises(FetchError, match="fake==1.0") as caught:
        fetch(package, download=offline)
    assert "no connection" in str(caught.value)
    assert "network" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_another_file_than_the_pinned_one_is_refused(package, index, cache):
    pinned = replace(package, sha256="0" * 64)
    with pytest.raises(FetchError, match="sha256") as caught:
        fetch(pinned, download=index.download)
    assert "fake==1.0" in str(caught.value)
    assert package.sha256 in str(caught.value)
    assert list(cache.iterdir()) == []


def test_an_unpacked_file_of_another_hash_is_refused(package, index, cache):
    pinned = replace(package, checks={"fake/a.txt": "0" * 64})
    with pytest.raises(FetchError, match="fake/a.txt"):
        fetch(pinned, download=index.download)
    assert list(cache.iterdir()) == []


def test_a_damaged_copy_is_fetched_again(package, index):
    folder = fetch(package, download=index.download)
    (folder / "fake" / "a.txt").write_bytes(b"o")
    assert fetch(package, download=index.download) == folder
    assert index.downloads == 2
    assert (folder / "fake" / "a.txt").read_bytes() == b"one"


def test_a_pattern_that_matches_nothing_is_refused(package, index):
    wanting = replace(package, members=("fake/*", "absent/*"))
    with pytest.raises(FetchError, match="absent"):
        fetch(wanting, download=index.download)


@pytest.mark.parametrize(
    "name",
    ["fake/../../out.txt", "/fake/out.txt", "fake/..\\out.txt", "fake/c:x"],
)
def test_no_member_is_written_outside_its_folder(index, cache, name):
    package = index.package({name: b"out"}, members=("*fake*",), checks={})
    with pytest.raises(FetchError, match="outside"):
        fetch(package, download=index.download)
    assert list(cache.iterdir()) == []
    assert not list(cache.parent.rglob("out.txt"))


def test_two_fetches_at_once_both_get_the_whole_copy(package, index):
    both_there = threading.Barrier(2)

    def download(*arguments):
        both_there.wait(10)
        return index.download(*arguments)

    found = []

    def run():
        folder = fetch(package, download=download)
        found.append(files_in(folder))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.downloads == 2
    assert len(found) == 2 and found[0] == found[1]
    assert found[0]["fake/a.txt"] == b"one"


KILLED_MIDWAY = """
import sys, time
from pathlib import Path
from app.texts import fetch as module
from app.texts.packages import Package

def stall(source, copy, size):
    copy.write(b"o")
    copy.flush()
    print("halfway", flush=True)
    time.sleep(60)

module.shutil.copyfileobj = stall
file, sha256 = sys.argv[1:]
package = Package("fake", "1.0", sha256, 1, ("fake/*",))
module.fetch(package, download=lambda *_: Path(file))
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_process_killed_midway_leaves_no_half_copy(package, index, cache):
    file = index.folder / "fake-1.0.zip"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_MIDWAY, str(file), package.sha256],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(module.__file__).parents[2],
    )
    assert process.stdout.readline() == b"halfway\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name[:9] for path in cache.iterdir()] == [".partial-"]
    folder = fetch(package, download=index.download)
    assert files_in(folder)["fake/a.txt"] == b"one"


def test_what_killed_processes_left_goes_after_a_day(package, index, cache):
    old, new = cache / ".partial-old", cache / ".partial-new"
    for left in (old, new):
        left.mkdir(parents=True)
    before = time.time() - module.ABANDONED_SECONDS - 60
    os.utime(old, (before, before))
    fetch(package, download=index.download)
    assert not old.exists() and new.exists()


def test_a_cache_that_cannot_be_written_says_so(
    package, index, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_LORA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FetchError, match="KERAS_LORA_CACHE"):
        fetch(package, download=index.download)


def test_the_cache_is_the_users_own_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_LORA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.cache_dir() == tmp_path / "keras_lora"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert module.cache_dir() == Path.home() / ".cache" / "keras_lora"


@pytest.fixture
def local_pip(tmp_path, monkeypatch):
    """pip that looks in one folder and nowhere else."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return links


SETUP = b"raise SystemExit('the setup script ran')"
INFO = b"Metadata-Version: 1.0\nName: fake\nVersion: 1.0\n"


def source_package(index, links):
    files = {"fake-1.0/setup.py": SETUP, "fake-1.0/PKG-INFO": INFO}
    files["fake-1.0/text.txt"] = b"text"
    package = index.package(
        files, members=("fake-1.0/text.txt",), checks={}, source=True
    )
    (index.folder / "fake-1.0.zip").rename(links / "fake-1.0.zip")
    return package


def test_pip_hands_over_a_source_package_and_runs_none_of_it(
    index, cache, local_pip
):
    package = source_package(index, local_pip)
    assert files_in(fetch(package)) == {"fake-1.0/text.txt": b"text"}


def test_a_folder_that_pip_removes_meanwhile_is_no_error(
    index, tmp_path, local_pip, monkeypatch
):
    package, folder = source_package(index, local_pip), tmp_path / "work"
    (folder / "gone").mkdir(parents=True)
    list_folder, vanished = os.scandir, []

    def vanishing(path="."):
        if str(path).endswith("gone"):
            vanished.append(path)
            raise FileNotFoundError(path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert pip_download(package, folder, lambda share: None).is_file()
    assert vanished


def test_pip_without_the_package_says_what_it_lacked(
    index, tmp_path, local_pip
):
    package = replace(index.package(FILES), name="absent")
    with pytest.raises(DownloadError, match="absent==1.0"):
        pip_download(package, tmp_path, lambda share: None)


def test_pip_refuses_another_hash(index, cache, local_pip):
    package = source_package(index, local_pip)
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(FetchError, match="not the file that was pinned") as no:
        fetch(replace(package, sha256=other))
    assert package.sha256 in str(no.value) and other in str(no.value)
    assert list(cache.iterdir()) == []
