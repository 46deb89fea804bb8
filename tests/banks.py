"""What tests of the bank share: tasks made as a user makes them."""

import atexit
import contextlib
import functools
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_lora
from tests.models import set_random, to_numpy, to_tensors

WIDTH = 6


@dataclass(frozen=True)
class Task:
    """An adapter file, and what the model it was saved from answers."""

    path: Any
    outputs: Any

    def row(self, number):
        """The own model's answer for one row."""
        return keras.tree.map_structure(lambda y: y[number], self.outputs)


def call(model, x):
    """A model's outputs, run eagerly, as arrays in their structure."""
    return keras.tree.map_structure(to_numpy, model(to_tensors(x)))


def make_task(base, path, config, x, *, head=None, seed=1, size=0.3):
    """Adapts a base as training would, saves the file, gives the base back.

    Args:
        base: The base; it is plain again afterwards.
        path: The file to write.
        config: What to attach.
        x: Rows to answer.
        head: Makes the model that is trained of the base; None for the base.
        seed: Of the adapter's and the head's values.
        size: Their spread.
    """
    keras_lora.inject(base, config)
    try:
        model = head(base) if head else base
        before = call(model, x)
        set_random(model.trainable_variables, seed, size)
        keras_lora.save_adapter(model, path)
        task = Task(path, call(model, x))
        assert far_apart(before, task.outputs)
    finally:
        keras_lora.eject(base)
    return task


@contextlib.contextmanager
def served(base, *args, **kwargs):
    """A bank for the length of a block."""
    bank = keras_lora.AdapterBank(base, *args, **kwargs)
    try:
        yield bank
    finally:
        with contextlib.suppress(ValueError):
            bank.detach()


def off(some, others):
    """The largest difference of two nests, relative to their magnitude."""
    some, others = keras.tree.flatten(some), keras.tree.flatten(others)
    assert len(some) == len(others) and some
    worst = 0.0
    for a, b in zip(some, others, strict=True):
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert a.shape == b.shape, (a.shape, b.shape)
        assert np.isfinite(a).all() and np.isfinite(b).all()
        if a.size:
            size = max(1.0, float(np.abs(b).max()))
            worst = max(worst, float(np.abs(a - b).max()) / size)
    return worst


def far_apart(some, others):
    """Whether two nests differ by far more than rounding."""
    return off(some, others) > 1e-3


def assert_rows(got, names, tasks, base_outputs, tolerance=1e-5):
    """Each row is its own task's, and no other's."""
    assert len(got) == len(names)
    for number, name in enumerate(names):
        if name is None:
            want = keras.tree.map_structure(
                lambda y, n=number: y[n], base_outputs
            )
        else:
            want = tasks[name].row(number)
        assert off(got[number], want) <= tolerance, (number, name)


def sequential(seed=0):
    """A small base of three hosts, with random weights."""
    base = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            layers.Dense(8, activation="tanh"),
            layers.Dense(8, activation="tanh"),
            layers.Dense(4),
        ]
    )
    set_random(base.weights, seed)
    return base


def rows(count=8, *shape, seed=1):
    """Rows of random numbers, all different."""
    shape = shape or (WIDTH,)
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("f4")


def dense_head(*units, activation=None):
    """Makes a model of a base and a chain of dense layers."""

    def build(base):
        top = [layers.Dense(n, activation=activation) for n in units]
        model = keras.Sequential([base, *top])
        model.build(base.input_shape)
        return model

    return build


def lora(rank=2, **options):
    return keras_lora.LoRAConfig(rank=rank, alpha=4, **options)


def bottleneck(width=3, **options):
    return keras_lora.AdapterConfig(bottleneck=width, **options)


def many_tasks(base, folder, count, x, *, rank=2, seed=10):
    """`count` tasks of one kind named `t0`, `t1`, ... with other values."""
    return {
        f"t{n}": make_task(
            base, folder / f"t{n}.safetensors", lora(rank), x, seed=seed + n
        )
        for n in range(count)
    }


@functools.cache
def few_tasks():
    """Tasks on `sequential()`, made once a process: bases alike have them.

    LoRA of rank 2 as `t0` to `t3`, `head` of rank 3 with a head, and `wide`,
    a bottleneck.
    """
    folder = Path(tempfile.mkdtemp(prefix="keras_lora-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    base, x = sequential(), rows(8)
    return {
        **many_tasks(base, folder, 4, x),
        "head": make_task(base, folder / "h", lora(3), x, head=dense_head(2)),
        "wide": make_task(base, folder / "w", bottleneck(targets=["dense"]), x),
    }


def loaded(bank, tasks):
    """Loads tasks into a bank by their names; returns the bank."""
    for name, task in tasks.items():
        bank.load(name, task.path)
    return bank


def together(*acts):
    """Runs functions in a thread each; the first error of any is raised."""
    errors = []

    def safely(act):
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=safely, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
