"""What tests of the server share: an engine on a small real bank."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import keras

import keras_lora
from keras_lora.serve import Engine
from tests.banks import few_tasks, sequential

ROOT = Path(__file__).parents[2]


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


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """A process that serves, and what it wrote."""

    def __init__(self, log, *arguments, **environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "keras_lora.cli", "serve"]
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [*command, *arguments, "--port", str(self.port)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "KERAS_BACKEND": keras.backend.backend(),
                    **environment,
                },
                stdout=out,
                stderr=out,
            )

    def status(self, path="/health"):
        try:
            with urllib.request.urlopen(self.url + path, timeout=120) as found:
                return found.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        return self.status() == 200

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
