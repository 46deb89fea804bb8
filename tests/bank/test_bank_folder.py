"""A bank's folder in the hands of others: other processes, and strangers."""

import errno
import json
import os
import subprocess
import sys

import pytest

from benchmarks.arena import is_own
from keras_lora import AdapterBank
from keras_lora.bank import folder as bank_folder
from keras_lora.bank import lock
from tests.bank.saving import is_broken, named
from tests.banks import few_tasks, loaded, off, rows, sequential, served
from tests.helpers import ends, refused
from tests.methods.contract import Facts

SAVERS = 3
SAVES = int(os.environ.get("BANK_SAVES", "40"))
"""Of each process."""
has_pipes = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="no named pipes here"
)


# Several processes.


def start(place, number, saves):
    """Starts a process that saves, or with 0 saves restores."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bank.saving"]
        + [str(place), str(number), str(saves)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "numpy"},
    )


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


def begin(process):
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    tell(process)


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return {**json.loads(output.splitlines()[-1]), "said": errors[-2000:]}


@pytest.mark.slow
def test_processes_that_save_one_folder_leave_a_whole_bank(tmp_path):
    """Whoever reads meanwhile sees one of the banks, never a part of two."""
    place = tmp_path / "bank"
    first = start(place, 9, 1)
    savers = [start(place, number, SAVES) for number in range(SAVERS)]
    reader = start(place, 0, 0)
    begin(first)
    result(first)
    for process in (*savers, reader):
        begin(process)
    looks = broken = 0
    while any(process.poll() is None for process in savers):
        broken += is_broken(place)
        looks += 1
    counts = [result(process) for process in savers]
    tell(reader)
    restored = result(reader)
    after = sum(count["broken"] for count in counts)
    saves = sum(count["saves"] for count in counts)
    print(f"{after} of {saves} saves left a broken index")
    print(f"{broken} of {looks} looks at the index found it broken")
    print(restored)
    assert saves == SAVERS * SAVES and looks and restored["restores"]
    assert (after, broken) == (0, 0)
    assert restored["refused"] == restored["mixed"] == 0, restored["said"]
    there = {path.name for path in place.iterdir()}
    assert there - {"bank.lock"} == {"bank.json", *named(place)[1]}


# What is in a folder.


@pytest.fixture
def base():
    return sequential()


@pytest.fixture
def folder(base, tmp_path):
    """A saved bank of three adapters."""
    with served(base) as bank:
        tasks = few_tasks()
        loaded(bank, {name: tasks[name] for name in ("t0", "t1", "t2")})
        bank.save(tmp_path / "bank")
    return tmp_path / "bank"


def index_of(folder):
    return json.loads((folder / "bank.json").read_text())


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_killed_saves_left_goes_with_the_next_one(base, folder):
    """Files that never came into an index, and halves of files."""
    tasks = few_tasks()
    with served(base) as bank:
        bank.load("u", tasks["t3"].path)
        bank.save(folder / "other")
    [orphan] = (folder / "other").glob("u-*")
    orphan.rename(folder / orphan.name)
    part = f".{orphan.name}.0123456789abcdef.part"
    (folder / part).write_bytes(b"half")
    (folder / ".bank.json.0123456789abcdef.part").write_bytes(b"{")
    (folder / "mine-0123456789abcdef.safetensors").write_bytes(b"mine")
    (folder / ".mine.part").write_bytes(b"mine")
    bank = AdapterBank.restore(base, folder)
    bank.save(folder)
    bank.detach()
    assert names(folder) == {
        "bank.json",
        "bank.lock",
        "other",
        "mine-0123456789abcdef.safetensors",
        ".mine.part",
        *index_of(folder)["adapters"].values(),
    }


def test_a_save_that_fails_takes_its_files_along(base, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = os.replace

    def full(part, path):
        if path.name == "bank.json":
            raise OSError(28, "No space left on device")
        real(part, path)

    with served(base) as bank:
        bank.load("new", few_tasks()["t3"].path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            refused(lambda: bank.save(folder), "No space left")
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert after == before
        bank.save(folder)
    assert index_of(folder)["adapters"].keys() == {"new"}


def test_an_index_that_could_not_be_read_again_is_not_written(
    base, tmp_path, monkeypatch
):
    with served(base) as bank:
        bank.load("a", few_tasks()["t0"].path)
        monkeypatch.setattr(bank_folder, "MAX_INDEX", 100)
        refused(lambda: bank.save(tmp_path), "an index of", "100 are read")
    assert names(tmp_path) == {"bank.lock"}


def test_a_save_in_the_middle_of_a_restore_gives_the_new_bank(
    base, folder, monkeypatch
):
    """Files of the old one are gone by then."""
    tasks, x = few_tasks(), rows(8)
    load, others = AdapterBank.load, []

    def load_and_save(self, name, path):
        load(self, name, path)
        if not others and self is not other:
            others.append(name)
            other.save(folder)

    with served(sequential()) as other:
        other.load("t1", tasks["t3"].path)
        other.load("new", tasks["head"].path)
        monkeypatch.setattr(AdapterBank, "load", load_and_save)
        bank = AdapterBank.restore(base, folder)
    assert others == ["t0"]
    assert bank.names == ["t1", "new"]
    assert off(bank.predict(x, adapter="t1"), tasks["t3"].outputs) <= 1e-5
    assert off(bank.predict(x, adapter="new"), tasks["head"].outputs) <= 1e-5
    bank.detach()


def test_a_lock_that_others_hold_is_not_waited_for_without_end(
    base, folder, monkeypatch
):
    monkeypatch.setattr(lock, "LONGEST_WAIT", 0.05)
    before = index_of(folder)
    with served(base) as bank:
        for shared in (False, True):
            with lock.locked(folder, shared=shared):
                refused(lambda: bank.save(folder), "bank.lock", "was not saved")
        assert index_of(folder) == before
        bank.save(folder)
    assert index_of(folder) != before


def test_where_there_are_no_locks_nothing_is_removed(base, folder, monkeypatch):
    def nowhere(handle, shared):
        raise OSError(errno.ENOLCK, "No locks available")

    before = names(folder)
    monkeypatch.setattr(lock, "_take", nowhere)
    with served(base) as bank:
        bank.load("new", few_tasks()["t3"].path)
        bank.save(folder)
    assert names(folder) - before == {*index_of(folder)["adapters"].values()}
    assert before <= names(folder)
    AdapterBank.restore(base, folder).detach()


def test_names_that_differ_in_case_alone_keep_their_files(base, tmp_path):
    """On some file systems, files of such names are one."""
    tasks = few_tasks()
    with served(base) as bank:
        bank.load("Task", tasks["t0"].path)
        bank.load("task", tasks["t0"].path)
        bank.save(tmp_path)
        bank.unload("Task")
        bank.save(tmp_path)
        assert len(list(tmp_path.glob("?ask-*"))) == 2
        bank.load("task", tasks["t1"].path)
        bank.save(tmp_path)
    assert names(tmp_path) == {
        "bank.json",
        "bank.lock",
        *index_of(tmp_path)["adapters"].values(),
    }


@has_pipes
@pytest.mark.parametrize("place", ["bank.json", "adapter", "bank.lock"])
def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(base, folder, place):
    if place == "adapter":
        place = index_of(folder)["adapters"]["t1"]
    (folder / place).unlink()
    os.mkfifo(folder / place)
    before = Facts(base)
    if place != "bank.lock":
        error = ends(lambda: AdapterBank.restore(base, folder), folder / place)
        assert is_own(error), repr(error)
        assert place in str(error) and "no file" in str(error)
        before.assert_same(Facts(base))
    # Saving writes a file in place of a pipe; but for the lock.
    with served(base) as bank:
        bank.load("t1", few_tasks()["t1"].path)
        error = ends(lambda: bank.save(folder), folder / place)
        if place == "bank.lock":
            assert is_own(error) and "bank.lock" in str(error)
            return
        assert error is None
    AdapterBank.restore(base, folder).detach()


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_lock_that_is_a_link_is_not_followed(base, folder, tmp_path):
    (tmp_path / "other").write_text("mine")
    (folder / "bank.lock").unlink()
    (folder / "bank.lock").symlink_to(tmp_path / "other")
    with served(base) as bank:
        refused(lambda: bank.save(folder), "bank.lock")
    (folder / "bank.lock").unlink()
    (folder / "bank.lock").symlink_to(tmp_path / "made")
    with served(base) as bank:
        refused(lambda: bank.save(folder), "bank.lock")
    assert not (tmp_path / "made").exists()


LONG = "x" * 5000
CHANGES = [
    ({"format": True}, "format"),
    ({"format": 1.0}, "format"),
    ({"format": "1"}, "format"),
    ({"capacity": 10**9}, "capacity", "100,000"),
    ({"capacity": 10**4000}, "capacity", "100,000"),
    ({"capacity": True}, "capacity"),
    ({"capacity": 1e9}, "capacity"),
    ({"capacity": float("nan")}, "capacity"),
    ({"capacity": float("inf")}, "capacity"),
    ({"rank": 10**9}, "rank"),
    ({"rank": True}, "rank"),
    ({"rank": 10**5, "capacity": 10**5}, "bytes", "capacity"),
    ({"targets": True}, "targets"),
    ({"deep": json.loads("[" * 200 + "]" * 200)}, "deep"),
]
NAMES = [
    {"a": LONG},
    {"a": "x" * 256},
    {LONG: "a"},
    {"a": ".."},
    {"a": "."},
    {"a": ""},
    {"a": "bank.json/"},
    {"a": "../bank/bank.json"},
    {"a": "/etc/passwd"},
    {"a": "C:x"},
    {"a": "..\\x"},
    {"a": "a\0b"},
    {"a": "\ud800"},
    {"a": "a\nb"},
    {"a": 1},
    {"a": True},
    {"a": None},
    {"a": ["t0"]},
]


@pytest.mark.parametrize(
    "change, words",
    [(change, words) for change, *words in CHANGES]
    + [({"adapters": adapters}, ["file name"]) for adapters in NAMES[:2]]
    + [({"adapters": adapters}, []) for adapters in NAMES[2:]],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_an_index_of_other_values_is_refused_in_words(
    base, folder, change, words
):
    before = Facts(base)
    index = {**index_of(folder), **change}
    (folder / "bank.json").write_text(json.dumps(index))
    refused(lambda: AdapterBank.restore(base, folder), *words)
    before.assert_same(Facts(base))


@pytest.mark.parametrize(
    "data, word",
    [
        (b'{"format": 1, "format": 1}', "twice"),
        (b'{"adapters": {"a": "x", "a": "y"}}', "twice"),
        (b"[" * 100_000, "bank.json"),
        (b"\xff", "bank.json"),
        (b"[1]", "object"),
        (b'{"capacity": ' + b"9" * 10_000 + b"}", "bank.json"),
        (b'"' + b"x" * (17 << 20) + b'"', "16,777,216 bytes"),
    ],
    ids=["key", "name", "deep", "utf-8", "list", "number", "large"],
)
def test_an_index_of_other_bytes_is_refused_in_words(base, folder, data, word):
    (folder / "bank.json").write_bytes(data)
    refused(lambda: AdapterBank.restore(base, folder), word)
