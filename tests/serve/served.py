"""What tests of the server share: an engine on a small real bank."""

import contextlib
import os
import shutil
import time

import keras_lora
from keras_lora.serve import Engine
from tests.banks import few_tasks, sequential


def copy_tasks(folder, *names):
    """Puts adapter files into a folder, settled long ago."""
    folder.mkdir(exist_ok=True)
    for name in names:
        put(few_tasks()[name].path, folder / f"{name}.safetensors")
    return folder


def put(source, target):
    """A file that appears whole under its name."""
    part = target.with_name(f".{target.name}.part")
    shutil.copy(source, part)
    os.utime(part, (1e9, 1e9))
    part.replace(target)


@contextlib.contextmanager
def engine_on(folder=None, base=None, **options):
    """An engine for the length of a block; the bank is detached after."""
    options = {"poll": 0.05, **options}
    bank = keras_lora.AdapterBank(base or sequential(), rank=3)
    try:
        with Engine(bank, folder=folder, **options) as engine:
            yield engine
    finally:
        bank.detach()


def wait_until(true, seconds=20):
    """Waits for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
