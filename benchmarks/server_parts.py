"""A server to measure: its base, its adapters, what they answer alone."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np
import psutil

import keras_lora

WORDS, LENGTH, WIDTH, CLASSES = 2000, 32, 128, 4
ROWS = 64
"""Different inputs that clients send."""


def base() -> Any:
    """A BERT of two blocks 128 wide over 32 tokens, alike in each process."""
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=WORDS,
        num_layers=2,
        num_heads=4,
        hidden_dim=WIDTH,
        intermediate_dim=4 * WIDTH,
        max_sequence_length=LENGTH,
        dropout=0.0,
    )
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    x = backbone(
        {
            "token_ids": ids,
            "segment_ids": keras.ops.zeros_like(ids),
            "padding_mask": keras.ops.ones_like(ids),
        }
    )
    return keras.Model(ids, x["pooled_output"], name="small_base")


def inputs() -> np.ndarray:
    """What clients ask about: int32 (rows, tokens)."""
    rng = np.random.default_rng(1)
    return rng.integers(1, WORDS, (ROWS, LENGTH)).astype("int32")


def make_adapters(folder: Path, names: list[str], seed: int = 2) -> np.ndarray:
    """Files with a head each, and what they answer alone.

    Returns:
        Float32 (adapters, rows, classes).
    """
    folder.mkdir(exist_ok=True)
    plain, rng = base(), np.random.default_rng(seed)
    answers = []
    for name in names:
        keras_lora.inject(plain, keras_lora.LoRAConfig(8, targets="all-linear"))
        model = keras.Sequential([plain, keras.layers.Dense(CLASSES)])
        model.build((None, LENGTH))
        for variable in model.trainable_weights:
            variable.assign(0.1 * rng.normal(size=variable.shape))
        part = folder / f".{name}.part.safetensors"
        keras_lora.save_adapter(model, part)
        part.rename(folder / f"{name}.safetensors")
        answers.append(model.predict(inputs(), verbose=0))
        keras_lora.eject(plain)
    return np.stack(answers)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """A server in a process of its own, on this machine alone.

    Attributes:
        url: Its address.
        seconds_to_start: Until it answered.
    """

    def __init__(self, folder: Path, *options: str, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "keras_lora.cli", "serve"]
        command += ["benchmarks.server_parts:base", "--adapters", str(folder)]
        command += ["--port", str(self.port), *options]
        self._started = time.monotonic()
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )

    def __enter__(self) -> "Server":
        try:
            self._wait(180)
        except BaseException:
            self.stop()
            raise
        self.seconds_to_start = time.monotonic() - self._started
        return self

    def _wait(self, seconds: float) -> None:
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5):
                    return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.2)
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text()[-3000:])
            if time.monotonic() - self._started > seconds:
                raise TimeoutError("the server did not start")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def megabytes(self) -> float:
        """What it and its children hold, pages they share counted once."""
        one = psutil.Process(self.process.pid)
        held = 0
        for process in [one, *one.children(recursive=True)]:
            try:
                held += process.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
        return held / 1e6

    def terminate(self) -> None:
        """Asks it to end."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ends it; gives its exit code."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
