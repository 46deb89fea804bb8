"""Every door that opens a file takes a regular one, and waits for no other."""

import errno
import os
import stat

import pytest

import keras_lora
from benchmarks.arena import is_own
from keras_lora import AdapterBank, cli
from keras_lora.files import regular, whole
from tests.banks import call, few_tasks, lora, off, rows, sequential, served
from tests.helpers import ends, fill, refused

has_pipes = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="no named pipes here"
)


@pytest.fixture
def base():
    return sequential()


@has_pipes
@pytest.mark.parametrize("door", ["inspect", "load", "bank", "combine", "cli"])
def test_a_path_that_turns_into_a_pipe_is_not_waited_for(
    base, tmp_path, monkeypatch, door
):
    """After it was looked at, and before it is opened."""
    path = tmp_path / "task"
    path.write_bytes(few_tasks()["t0"].path.read_bytes())
    real = os.stat

    def stat_and_swap(place, *args, **kwargs):
        found = real(place, *args, **kwargs)
        if place == path and stat.S_ISREG(found.st_mode):
            path.unlink()
            os.mkfifo(path)
        return found

    bank = AdapterBank(sequential())
    act = {
        "inspect": lambda: keras_lora.inspect_adapter(path),
        "load": lambda: keras_lora.load_adapter(base, path),
        "bank": lambda: bank.load("a", path),
        "combine": lambda: keras_lora.combine([(path, 1)], tmp_path / "out"),
        "cli": lambda: cli.main(["inspect", str(path)]),
    }[door]
    with monkeypatch.context() as changed:
        if door == "cli":
            os.unlink(path)
            os.mkfifo(path)
        else:
            changed.setattr(regular.os, "stat", stat_and_swap)
        error = ends(act, path)
    if door != "cli":
        assert is_own(error) and "no file" in str(error), repr(error)
    bank.detach()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_a_path_that_no_file_can_have_is_refused_in_words(base, name):
    before = call(base, rows(2))
    refused(lambda: keras_lora.inspect_adapter(name), "was not read")
    refused(lambda: keras_lora.load_adapter(base, name))
    with served(base) as bank:
        refused(lambda: bank.load("a", name))
        refused(lambda: AdapterBank.restore(sequential(), name))
        refused(lambda: bank.save(name), "was not saved")
    fill(keras_lora.inject(base, lora()))
    refused(lambda: keras_lora.save_adapter(base, name), "was not written")
    keras_lora.eject(base)
    assert off(call(base, rows(2)), before) == 0


@has_pipes
def test_a_base_that_is_a_pipe_is_not_waited_for(tmp_path, capsys):
    base, task = tmp_path / "base.keras", few_tasks()["t0"].path
    os.mkfifo(base)
    command = ["merge", str(base), str(task), "-o", str(tmp_path / "o.keras")]
    assert ends(lambda: cli.main(command), base) is None
    assert "no file" in capsys.readouterr().err
    assert not (tmp_path / "o.keras").exists()


def test_a_reader_that_has_the_index_open_is_waited_for(tmp_path, monkeypatch):
    """As Windows wants it."""
    path, count, real = tmp_path / "file", [0], os.replace

    def busy(part, path):
        count[0] += 1
        if count[0] < 3:
            raise PermissionError(errno.EACCES, "Access is denied")
        real(part, path)

    monkeypatch.setattr(whole, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(os, "replace", busy)
    whole.write_whole(path, b"new")
    assert count == [3] and path.read_bytes() == b"new"
