"""Saves in a process that is killed at every step; run by test_crashes.py.

    KERAS_BACKEND=numpy python -m tests.files.crashing FOLDER [EVERY]

The backend computes on the caller's thread only, so that the process may fork:
each fork saves once and kills itself, without any clean-up, at one of the
calls that the writing functions make, or at each EVERY-th. Prints counts as
JSON.
"""

import json
import os
import pwd
import resource
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_lora
from keras_lora.bank import folder as bank_folder
from keras_lora.files.whole import write_whole

CHUNK = 500
WRITERS = {
    "write_whole": write_whole.__code__,
    "write_folder": bank_folder.write_folder.__code__,
}


class InChunks:
    """A file whose `write` reaches the disk bit by bit, as a disk's does."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        for start in range(0, len(data), CHUNK):
            self.file.write(data[start : start + CHUNK])
            self.file.flush()


class KillAt:
    """Kills the process at a step of the writing functions.

    A step is a call of anything built in, which all that reaches the system
    is, made by a writing function or by what it calls.

    Args:
        step: Number of the step to die at.
    """

    def __init__(self, step):
        self.left = step
        self.inside = 0

    def __call__(self, frame, event, called):
        if frame.f_code in WRITERS.values():
            self.inside += (event == "call") - (event == "return")
        if self.inside and event in ("c_call", "c_return"):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def in_fork(act):
    """Runs `act` in a fork; gives its exit code, or minus its signal."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 2
    try:
        code = act() or 0
    finally:
        os._exit(code)


def killed_at(step, act):
    """Saves in chunks and is killed at a step, if there are that many."""

    def save():
        fdopen = os.fdopen
        os.fdopen = lambda *args: InChunks(fdopen(*args))
        sys.setprofile(KillAt(step))
        act()
        sys.setprofile(None)

    return in_fork(save)


def base_and_models(folder):
    """A base, and three adapted models' files with heads."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    saves = []
    for number in range(3):
        keras_lora.inject(base, keras_lora.LoRAConfig(2 + number))
        model = keras.Sequential([base, layers.Dense(3)])
        for variable in model.trainable_variables:
            variable.assign(np.random.normal(size=variable.shape))
        keras_lora.save_adapter(model, folder / f"{number}.safetensors")
        saves.append((folder / f"{number}.safetensors").read_bytes())
        if number < 2:
            keras_lora.eject(base)
    return base, model, saves


def every_step(act, look, allowed, restore, every, after=lambda: None):
    """Kills `act` at each of its steps; counts what was found after each.

    Args:
        act: What saves.
        look: Gives what is there now.
        allowed: The old and the new; anything else is an error.
        restore: Puts the old back.
        every: How many steps on the next one is.
        after: Looks at what comes after a kill.
    """
    found = {"old": 0, "new": 0}
    step = 0
    while True:
        restore()
        assert look() == allowed[0]
        code = killed_at(step, act)
        now = look()
        if now not in allowed:
            raise AssertionError(f"step {step}: neither the old nor the new")
        if code == 0:
            assert now == allowed[1]
            return found
        assert code == -signal.SIGKILL, code
        found["new" if now == allowed[1] else "old"] += 1
        after()
        step += every


def adapter_steps(folder, model, old, every):
    path = folder / "task" / "task.safetensors"
    path.parent.mkdir()
    keras_lora.save_adapter(model, path)
    new = path.read_bytes()

    def restore():
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(old)

    def look():
        keras_lora.inspect_adapter(path)
        return path.read_bytes()

    def save():
        keras_lora.save_adapter(model, path)

    return every_step(save, look, (old, new), restore, every)


def contents(folder):
    """All files of the bank in a folder, by the adapter's name."""
    index = bank_folder.read_index(folder)
    return {
        name: (folder / file).read_bytes()
        for name, file in index["adapters"].items()
    }


def bank_steps(folder, base, place, every):
    bank = keras_lora.AdapterBank(base)
    bank.load("a", folder / "0.safetensors")
    bank.load("b", folder / "1.safetensors")
    bank.save(place)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    old = contents(place)
    bank.unload("b")
    bank.load("a", folder / "1.safetensors")
    bank.load("c", folder / "2.safetensors")

    def restore():
        for file in place.iterdir():
            file.unlink()
        for name, data in before.items():
            (place / name).write_bytes(data)

    bank.save(place)
    new = contents(place)

    def save():
        bank.save(place)

    def look():
        return contents(place)

    def after():
        """The next save waits for nobody, and nothing is left over."""
        save()
        assert contents(place) == new
        index = bank_folder.read_index(place)["adapters"]
        there = {file.name for file in place.iterdir()}
        assert there == {"bank.json", "bank.lock", *index.values()}, there

    found = every_step(save, look, (old, new), restore, every, after)
    names = bank.names
    bank.detach()
    again = keras_lora.AdapterBank.restore(base, place)
    assert again.names == names
    again.detach()
    return found


def refusals(folder, act, look):
    """Disks that fill up at some size, and a folder of another user's."""
    before = look()

    def full(size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return fails_with("File too large")

    def closed():
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        return fails_with("Permission denied")

    def fails_with(words):
        try:
            act()
        except ValueError as error:
            return 0 if words in str(error) and str(folder) in str(error) else 3
        return 4

    codes = [in_fork(lambda s=size: full(s)) for size in (0, 1, 100, 1000)]
    assert codes == [0] * 4, codes
    code = in_fork(closed)
    folder.chmod(0o755)
    assert code == 0, code
    assert look() == before
    assert not list(folder.glob(".*")), "a part was left"
    return len(codes) + 1


def main(folder, every=1):
    folder = Path(folder)
    folder.chmod(0o755)
    base, model, saves = base_and_models(folder)
    path = folder / "task" / "task.safetensors"
    found = {"save_adapter": adapter_steps(folder, model, saves[0], every)}
    found["refused saves of an adapter"] = refusals(
        path.parent,
        lambda: keras_lora.save_adapter(model, path),
        path.read_bytes,
    )
    keras_lora.eject(base)
    place = folder / "bank"
    found["bank.save"] = bank_steps(folder, base, place, every)
    bank = keras_lora.AdapterBank.restore(base, place)
    bank.unload("c")
    bank.load("d", folder / "0.safetensors")
    found["refused saves of a bank"] = refusals(
        place, lambda: bank.save(place), lambda: contents(place)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
