"""What benchmarks of a bank share: bases, adapter files and a clock."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import keras_lora
from benchmarks.train_step import build

FILES = 4
"""Different adapter files; more names than these share contents."""


def milliseconds(act: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - start)


def make_files(base: Any, folder: Path, rank: int) -> list[Path]:
    """Adapters on all linear layers, with random values."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=rank))
        for variable in base.trainable_weights:
            variable.assign(0.02 * rng.normal(size=variable.shape))
        paths.append(folder / f"{number}.safetensors")
        keras_lora.save_adapter(base, paths[-1])
        keras_lora.eject(base)
    return paths


def fresh(options: argparse.Namespace, weights: list[Any]) -> Any:
    """A new base with the weights that the adapters belong to."""
    base, _ = build(options)
    base.set_weights(weights)
    return base
