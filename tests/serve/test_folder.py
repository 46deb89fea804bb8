"""The folder is the truth: what lies in it is served, and nothing else."""

import os
import shutil
import tempfile
import threading

import numpy as np
import pytest

import keras_lora
from keras_lora.serve import (
    FolderWatcher,
    NotServing,
    RefusedAdapter,
    UnknownAdapter,
)
from tests.banks import few_tasks, off, rows, sequential, served
from tests.helpers import ends
from tests.serve.served import copy_tasks, engine_on, put, wait_until
from tests.speaking import dialects, speaker

TASKS = few_tasks()


@pytest.fixture
def bank():
    with served(sequential(), rank=3) as bank:
        yield bank


@pytest.fixture
def folder(tmp_path):
    return copy_tasks(tmp_path / "adapters", "t0", "t1")


def states(watcher):
    return {name: status.state for name, status in watcher.status.items()}


def is_right(bank, name, task=None):
    got = bank.predict(rows(8), adapter=name)
    return off(got, TASKS[task or name].outputs) < 1e-5


def test_files_come_change_and_go(folder, bank):
    watcher = FolderWatcher(bank, folder)
    assert states(watcher) == {"t0": "served", "t1": "served"}
    assert is_right(bank, "t0") and not is_right(bank, "t0", "t1")
    put(TASKS["head"].path, folder / "new-1.5.safetensors")
    put(TASKS["t2"].path, folder / "t0.safetensors")
    (folder / "t1.safetensors").unlink()
    watcher.look()
    assert bank.names == ["t0", "new-1.5"]
    assert is_right(bank, "t0", "t2") and is_right(bank, "new-1.5", "head")
    assert states(watcher) == {"t0": "served", "new-1.5": "served"}


def test_a_bad_file_is_told_skipped_and_tried_again_when_it_changes(
    folder, bank, caplog
):
    good = TASKS["t2"].path.read_bytes()
    settled(folder / "t0.safetensors", good[: len(good) // 2])
    settled(folder / "no adapter.safetensors", good)
    watcher = FolderWatcher(bank, folder)
    for _ in range(3):
        watcher.look()
    assert states(watcher) == {
        "no adapter.safetensors": "refused",
        "t0": "refused",
        "t1": "served",
    }
    told = [r.message for r in caplog.records if "t0 is not" in r.message]
    assert len(told) == 1
    assert "truncated" in watcher.status["t0"].problem
    assert str(folder.parent) not in watcher.status["t0"].problem
    settled(folder / "t0.safetensors", good)
    watcher.look()
    assert states(watcher)["t0"] == "served" and is_right(bank, "t0", "t2")
    # What replaces a good one and is bad is not served, as on any replica.
    settled(folder / "t0.safetensors", b"junk")
    watcher.look()
    assert states(watcher)["t0"] == "refused" and bank.names == ["t1"]


def settled(path, data):
    """Writes a file that changed long ago, and another time each time."""
    times = getattr(settled, "times", 1_000_000_000) + 1
    settled.times = times
    path.write_bytes(data)
    os.utime(path, (times, times))


def test_a_copy_half_made_is_left_alone(folder, bank):
    """A file may be as long as it will be before all of it is there."""
    good = TASKS["t2"].path.read_bytes()
    watcher = FolderWatcher(bank, folder, every=3600)
    target = folder / "t0.safetensors"
    hole = bytes(1000)
    for filled in (len(good) - 1000, len(good) - 500, len(good)):
        target.write_bytes((good[:filled] + hole)[: len(good)])
        watcher.look()
        # It changes still: the one before is served.
        assert states(watcher)["t0"] == "served" and is_right(bank, "t0")
    watcher.look()  # nobody has written to it since the last look
    assert is_right(bank, "t0", "t2")
    (folder / "fresh.safetensors").write_bytes(good)
    watcher.look()
    assert states(watcher)["fresh"] == "waiting"
    watcher.look()
    assert states(watcher)["fresh"] == "served"


def test_a_file_that_is_written_while_it_is_read_waits(
    folder, bank, monkeypatch
):
    from keras_lora.serve import folder as following

    real = following.copied

    def copied(one, target):
        found = real(one, target)
        settled(one.path, TASKS["t3"].path.read_bytes())
        return found

    watcher = FolderWatcher(bank, folder)
    settled(folder / "t0.safetensors", TASKS["t2"].path.read_bytes())
    monkeypatch.setattr(following, "copied", copied)
    watcher.look()
    assert is_right(bank, "t0")
    monkeypatch.undo()
    watcher.look()
    assert is_right(bank, "t0", "t3")


def test_what_has_a_dot_first_or_another_ending_is_nothing(folder, bank):
    for name in (".t2.safetensors.part", ".t2.safetensors", "results.json"):
        shutil.copy2(TASKS["t2"].path, folder / name)
    (folder / "a folder").mkdir()
    (folder / "gone.safetensors").symlink_to(folder / "nothing")
    watcher = FolderWatcher(bank, folder)
    assert states(watcher) == {"t0": "served", "t1": "served"}


def test_links_are_followed(folder, bank, tmp_path):
    (folder / "far.safetensors").symlink_to(TASKS["t3"].path)
    watcher = FolderWatcher(bank, folder)
    assert is_right(bank, "far", "t3")
    (folder / "far.safetensors").unlink()
    (folder / "far.safetensors").symlink_to(TASKS["t2"].path)
    watcher.look()
    assert is_right(bank, "far", "t2")


def test_a_pipe_is_not_waited_for(folder, bank):
    pipe = folder / "pipe.safetensors"
    os.mkfifo(pipe)
    os.utime(pipe, (1e9, 1e9))
    found = []
    act = lambda: found.append(FolderWatcher(bank, folder))  # noqa: E731
    assert ends(act, pipe) is None
    assert states(found[0])["pipe"] == "refused"
    assert bank.names == ["t0", "t1"]


def test_names_that_two_things_have_or_the_base(folder, bank):
    (folder / "t0").mkdir()
    (folder / "t0" / "adapter_config.json").write_text("{}")
    watcher = FolderWatcher(bank, folder, reserved={"t1"})
    assert states(watcher) == {"t0": "refused", "t1": "refused"}
    assert bank.names == []


def test_a_folder_that_is_away_changes_nothing(folder, bank):
    watcher = FolderWatcher(bank, folder)
    folder.rename(folder.with_name("away"))
    watcher.look()
    assert watcher.problem and is_right(bank, "t0")
    with pytest.raises(NotServing):
        watcher.load("t0")
    folder.with_name("away").rename(folder)
    watcher.look()
    assert not watcher.problem and bank.names == ["t0", "t1"]


def test_unload_holds_until_load_or_a_change(folder, bank):
    watcher = FolderWatcher(bank, folder)
    watcher.unload("t0")
    watcher.look()
    assert states(watcher)["t0"] == "unloaded" and bank.names == ["t1"]
    watcher.load("t0")
    assert states(watcher)["t0"] == "served" and is_right(bank, "t0")
    watcher.unload("t0")
    put(TASKS["t2"].path, folder / "t0.safetensors")
    watcher.look()
    assert is_right(bank, "t0", "t2")
    for name in ("t9", "../t0", "t0/../t0", "", ".", "t0.safetensors"):
        with pytest.raises(UnknownAdapter):
            watcher.load(name)
        with pytest.raises(UnknownAdapter):
            watcher.unload(name)


def test_load_does_not_wait_for_the_next_look(folder, bank):
    watcher = FolderWatcher(bank, folder, every=3600)
    (folder / "now.safetensors").write_bytes(TASKS["t2"].path.read_bytes())
    watcher.load("now")
    assert is_right(bank, "now", "t2")
    (folder / "bad.safetensors").write_bytes(b"junk")
    with pytest.raises(RefusedAdapter) as error:
        watcher.load("bad")
    assert str(folder.parent) not in str(error.value)
    assert states(watcher)["bad"] == "refused"
    assert is_right(bank, "t0")


def test_no_room_for_a_copy_is_no_fault_of_the_file_for_long(
    folder, bank, monkeypatch, caplog
):
    """What is copied to may be full or read-only for a moment."""
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
        watcher = FolderWatcher(bank, folder)
        watcher.look()
        assert states(watcher) == {"t0": "refused", "t1": "refused"}
        assert "No such file" in watcher.status["t0"].problem
        assert str(folder) not in watcher.status["t0"].problem
        with pytest.raises(RefusedAdapter, match="No such file"):
            watcher.load("t0")
    assert len([r for r in caplog.records if "t0 is not" in r.message]) == 1
    watcher.look()
    assert states(watcher) == {"t0": "served", "t1": "served"}
    assert is_right(bank, "t0")


def test_what_is_in_use_stays_served(folder, bank):
    watcher = FolderWatcher(bank, folder)
    path = folder / "t0.safetensors"
    with bank.using("t0"):
        with pytest.raises(ValueError, match="using"):
            watcher.unload("t0")
        assert states(watcher)["t0"] == "served"
        settled(path, b"junk")
        with pytest.raises(ValueError, match="using"):
            watcher.look()
        assert states(watcher)["t0"] == "served" and is_right(bank, "t0")
    watcher.look()
    assert states(watcher)["t0"] == "refused" and bank.names == ["t1"]


def test_a_peft_folder_that_goes_while_it_is_looked_at(
    folder, bank, monkeypatch
):
    """The others are taken up by the same look."""
    peft = folder / "a"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    real = os.path.exists

    def exists(path):
        there = real(path)
        shutil.rmtree(peft, ignore_errors=True)
        return there

    monkeypatch.setattr(os.path, "exists", exists)
    FolderWatcher(bank, folder)
    assert not peft.exists() and bank.names == ["t0", "t1"]


def test_more_adapters_than_slots(tmp_path):
    folder = copy_tasks(tmp_path / "a", "t0", "t1", "t2", "t3")
    base = sequential()
    bank = keras_lora.AdapterBank(base, capacity=2)
    FolderWatcher(bank, folder)
    names = ["t3", "t0", "t2", "t1"] * 2
    got = bank.predict(rows(8), adapter=names)
    for number, name in enumerate(names):
        assert off(got[number], TASKS[name].row(number)) < 1e-5
    bank.detach()


def test_an_engine_follows_its_folder_while_it_answers(tmp_path):
    folder = copy_tasks(tmp_path / "a", "t0", "t1")
    x = rows(8)
    with engine_on(folder) as engine:

        def answers(name, task=None):
            futures = engine.predict(x, name)
            got = np.stack([f.result(60).outputs for f in futures])
            return off(got, TASKS[task or name].outputs) < 1e-5

        assert answers("t0") and answers("t1")
        put(TASKS["t2"].path, folder / "t0.safetensors")
        put(TASKS["wide"].path, folder / "wide.safetensors")
        (folder / "t1.safetensors").unlink()
        wait_until(lambda: list(engine.models) == ["t0", "wide"])
        wait_until(lambda: answers("t0", "t2"))
        assert answers("wide")
        with pytest.raises(UnknownAdapter):
            engine.predict(x, "t1")


@pytest.mark.slow
def test_peft_folders_are_adapters_too(tmp_path):
    pytest.importorskip("keras_hub")
    folder = tmp_path / "adapters"
    folder.mkdir()
    [(name, path)] = dialects(folder, "a").items()
    task = speaker()
    keras_lora.load_adapter(task, path)
    keras_lora.save_peft(task, folder / "b")
    keras_lora.eject(task)
    with served(task) as bank:
        watcher = FolderWatcher(bank, folder, every=0.001)
        watcher.look()
        assert states(watcher) == {"a": "served", "b": "served"}
        said = bank.generate("the cat", "a")
        assert bank.generate("the cat", "b") == said
        assert bank.generate("the cat") != said
        (folder / "b" / "adapter_config.json").write_text("{")
        watcher.look()
        watcher.look()
        assert states(watcher) == {"a": "served", "b": "refused"}
        assert bank.names == [name]


def test_no_answer_is_wrong_while_the_folder_changes(tmp_path):
    """Fifty files come, are replaced and go; one is broken, and all are asked.

    What a name answers is one of the tasks that were put under it.
    """
    folder = copy_tasks(tmp_path / "a", "t0")
    kinds = ["t0", "t1", "t2", "t3", "head", "wide"]
    put_there = {f"n{number}": set() for number in range(50)}
    x, done, wrong, answered = rows(8), threading.Event(), [], []

    def run(engine, seed):
        try:
            ask(engine, seed)
        except Exception as error:
            wrong.append(error)

    def ask(engine, seed):
        rng = np.random.default_rng(seed)
        while not done.is_set():
            name, row = f"n{rng.integers(50)}", int(rng.integers(8))
            before = set(put_there[name])
            try:
                [future] = engine.predict([x[row]], name)
                got = future.result(60).outputs
            except UnknownAdapter:
                continue
            wants = [TASKS[kind].row(row) for kind in put_there[name] | before]
            alike = [w for w in wants if w.shape == got.shape]
            if not any(off(got, want) < 1e-5 for want in alike):
                wrong.append(name)
            answered.append(name)

    with engine_on(folder, poll=0.02) as engine:
        threads = [
            threading.Thread(target=run, args=(engine, seed))
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for turn in range(3):
            for number, name in enumerate(put_there):
                kind = kinds[(number + turn) % len(kinds)]
                put_there[name].add(kind)
                target = folder / f"{name}.safetensors"
                put(TASKS[kind].path, target)
                if (number + turn) % 7 == 0:
                    target.unlink()
        (folder / "n49.safetensors").write_bytes(b"junk")
        want = {"t0"} | {p.stem for p in folder.glob("n*.safetensors")}
        want.discard("n49")
        wait_until(lambda: set(engine.models) == want, 60)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong and len(set(answered)) > 20
        for number, name in enumerate(put_there):
            if name in want:
                [future] = engine.predict([x[0]], name)
                task = TASKS[kinds[(number + 2) % len(kinds)]]
                assert off(future.result(60).outputs, task.row(0)) < 1e-5
        assert engine.folder.status["n49"].state == "refused"
