"""Does a base keep the rows of a batch apart: tried out, not assumed."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.bank.host import was_read
from keras_lora.bank.inputs import IDS, with_ids
from keras_lora.bank.routing import Routed
from keras_lora.bank.slots import Slots
from keras_lora.bank.watch import (
    Call,
    Unfit,
    mixing_layer,
    others_moved,
    watch,
    without_rows,
)
from keras_lora.errors import raise_if
from keras_lora.methods.lora import LORA, lora_class
from keras_lora.methods.stack import Arrays, Kind, Stack
from keras_lora.model import graphs
from keras_lora.model.paths import Layers
from keras_lora.model.surgery import Layer

SHORT = 3
LENGTHS = (SHORT, 8, 4, 2, 1, 16, 32, 64, 128, 224)
"""Sizes tried for axes that a base leaves open.

A batch of as many rows is tried for each: 3 are tried anyway.
"""
COUNTS = (5, 7, 11, 13, 17, 19, 23)
"""Rows to watch: a prime that no axis is a multiple of tells rows apart."""
LARGEST = 128
"""Most rows tried at a time."""


def probe(base: Layer, layers: Layers, inputs: Any) -> Unfit:
    """Gives one row other contents, then a random adapter; watches the rest.

    The base is plain, and is so again afterwards.

    Raises:
        ValueError: Another row moved (the layer that mixes rows is named), or
            the base cannot be run by rows.
    """
    trial = Trial(base, layers, inputs)
    unfit = trial.watch_contents()
    slots = Slots(layers, 1)
    able = {
        path: Kind(LORA.name, 1)
        for path, layer in layers.items()
        if lora_class(layer) and path not in unfit.inputs
    }
    try:
        slots.provide(able)
        fill_at_random(slots)
        trial.try_adapters(able)
        read = {path for path, host in slots.hosts.items() if was_read(host)}
    finally:
        slots.close()
    return dataclasses.replace(unfit, kernels=frozenset(read))


class Trial:
    """A base run on random rows."""

    def __init__(self, base: Layer, layers: Layers, inputs: Any) -> None:
        self.base, self.layers, self.inputs = base, layers, inputs
        self.length = LENGTHS[0]
        self.routed = Routed(base, lambda: 2)

    def watch_contents(self) -> Unfit:
        """Changes the contents of rows and watches all layers."""
        rows, before, outputs = self.first_run()
        inputs: set[str] = set()
        unfit: set[str] = set()
        masked: set[int] = set()
        for changed in one_and_the_others(rows):
            x = self.random_inputs(rows)
            for value in keras.tree.flatten(x):
                value[changed] = 1 - value[changed]
            after, moved, given = self.watched(x)
            masked |= with_mask(given)
            if others_moved(outputs, moved, changed):
                raise self.mixes(rows, mixing_layer(before, after, changed))
            for one, two in zip(before, after, strict=True):
                if without_rows(one.inputs, two.inputs):
                    inputs.add(one.path)
                if without_rows(one.outputs, two.outputs) or others_moved(
                    one.outputs[:1], two.outputs[:1], changed
                ):
                    unfit.add(one.path)
        return Unfit(frozenset(inputs), frozenset(unfit), frozenset(masked))

    def first_run(self) -> tuple[int, list[Call], Any]:
        """Finds a size for open axes that the base runs with."""
        problem: Exception | None = None
        flat = keras.tree.flatten(self.inputs)
        is_open = any(None in tensor.shape[1:] for tensor in flat)
        for length in LENGTHS if is_open else LENGTHS[:1]:
            self.length = length
            rows = self.telling_count()
            x = self.random_inputs(rows)
            try:
                calls, short, outputs = self.watched(x)
            except Exception as error:
                problem = problem or error
                continue
            if is_open and length == SHORT and any(c.empty for c in calls):
                continue  # a stride or window left nothing to watch
            self.check_outputs(outputs, rows)
            return rows, calls, short
        raise ValueError(
            f"AdapterBank was not made.\n- {self.base.name!r} does not run on "
            f"random inputs: {problem}"
        ) from problem

    def watched(self, x: Any, ids: Any = None) -> Any:
        """The calls in a run, and what came out."""
        rows = len(keras.tree.flatten(x)[0])
        return watch(lambda: self.run(x, ids), self.layers, rows)

    def axes(self) -> list[int]:
        """The size of each axis of the inputs beside the batch."""
        return [
            size or self.length
            for tensor in keras.tree.flatten(self.inputs)
            for size in tensor.shape[1:]
        ]

    def telling_count(self) -> int:
        """A number of rows that no axis of the inputs is a multiple of."""
        fit = [n for n in COUNTS if all(size % n for size in self.axes())]
        return (fit or COUNTS)[0]

    def check_outputs(self, outputs: Any, rows: int) -> None:
        """Refuses outputs that cannot say "no such adapter" row by row."""
        problems = []
        for tensor in keras.tree.flatten(outputs):
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            if not dtype.startswith(("float", "bfloat")):
                problems.append(
                    f"{self.base.name!r} has an output of {dtype}; only "
                    "floating-point ones can be served"
                )
            if tuple(tensor.shape[:1]) != (rows,):
                problems.append(
                    f"{self.base.name!r} has an output of shape "
                    f"{tuple(tensor.shape)} for {rows} rows"
                )
        raise_if("AdapterBank was not made", problems)

    def run(self, x: Any, ids: Any = None) -> Any:
        """Runs the base eagerly, plain or with a slot for each row."""
        tensors = keras.tree.map_structure(ops.convert_to_tensor, x)
        if ids is None:
            return self.base(tensors, training=False)
        return self.routed(tensors, ops.convert_to_tensor(ids))

    def try_adapters(self, hosts: Collection[str]) -> None:
        """Gives rows an adapter, at every size of batch that may matter."""
        for rows in self.batch_sizes():
            try:
                adapted = self.reaching_others(rows)
            except Exception as error:
                raise ValueError(
                    f"AdapterBank was not made.\n- {self.base.name!r} does "
                    f"not run with an adapter for each row: {error}"
                ) from error
            if adapted is not None:
                raise self.mixes(rows, self.mixing_layer(adapted, hosts))

    def reaching_others(self, rows: int) -> np.ndarray | None:
        """Rows whose adapter moves the output of any other, if there are."""
        x = self.random_inputs(rows)
        before = self.outputs(x, None)
        for adapted in one_and_the_others(rows):
            after = self.outputs(x, adapted.astype("int32"))
            for one, two in zip(before, after, strict=True):
                one, two = one[~adapted], two[~adapted]
                if not np.allclose(one, two, 1e-4, 1e-5, equal_nan=True):
                    return adapted
        return None

    def outputs(self, x: Any, ids: Any) -> list[np.ndarray]:
        """What a batch gives, plain or with a slot for each row."""
        return [
            ops.convert_to_numpy(y).astype("float32")
            for y in keras.tree.flatten(self.runner(x, ids))
        ]

    def mixing_layer(
        self, adapted: np.ndarray, hosts: Collection[str]
    ) -> str | None:
        """Where that happens, looked for where rows are told apart best."""
        for rows in one_and_the_others(self.telling_count())[0], adapted:
            x = self.random_inputs(len(rows))
            before, *_ = self.watched(x, np.zeros(len(rows), "int32"))
            after, *_ = self.watched(x, rows.astype("int32"))
            found = mixing_layer(before, after, rows, hosts)
            if found is not None:
                return found
        return None

    @functools.cached_property
    def runner(self) -> Callable[[Any, Any], Any]:
        """What runs a batch: JAX compiles whole models sooner than each op."""
        if keras.backend.backend() != "jax":
            return self.run
        ids = keras.Input((), dtype="int32", name=IDS)
        outputs = self.routed(self.inputs, ids)
        model = keras.Model(with_ids(self.inputs, ids), outputs)

        def run(x: Any, ids: Any) -> Any:
            if ids is None:
                ids = np.zeros(len(keras.tree.flatten(x)[0]), "int32")
            return model.predict_on_batch(with_ids(x, ids, self.inputs))

        return run

    def batch_sizes(self) -> list[int]:
        """2, 3, and the size of every other axis of the inputs."""
        sizes = {2, 3, *self.axes()}
        return sorted(size for size in sizes if 1 < size <= LARGEST)

    def random_inputs(self, rows: int) -> Any:
        """Noise for floating-point inputs, ones for the others.

        The noise stays in [0, 2): a base without a graph does not tell that
        it takes numbers of words.
        """
        rng = np.random.default_rng(1)

        def make(tensor: Any) -> np.ndarray:
            shape = (rows, *(size or self.length for size in tensor.shape[1:]))
            if str(tensor.dtype).startswith(("float", "bfloat")):
                return rng.uniform(0, 2, size=shape).astype("float32")
            return np.ones(shape, tensor.dtype)

        return keras.tree.map_structure(make, self.inputs)

    def mixes(self, rows: int, layer: str | None) -> ValueError:
        """The error that names the layer."""
        return ValueError(
            f"AdapterBank was not made.\n- {self.base.name!r} mixes the rows "
            f"of a batch of {rows} in layer {layer or self.base.name!r}: one "
            "row's adapter would reach others"
        )


def with_mask(outputs: Any) -> set[int]:
    """Which tensors of a nest carry a Keras mask."""
    flat = enumerate(keras.tree.flatten(outputs))
    return {number for number, y in flat if graphs.mask_of(y) is not None}


def one_and_the_others(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to change: what one does to all, and what all do to one."""
    one = np.arange(rows) == rows // 2
    return one, ~one


def fill_at_random(slots: Slots) -> None:
    """Puts random factors into slot 1 of every host."""
    rng = np.random.default_rng(0)

    def values(path: str, host: Any, stack: Stack) -> Arrays:
        found = {
            name: rng.normal(size=shape).astype("float32")
            for name, shape in stack.shapes(host).items()
        }
        found["lora_a"] /= np.sqrt(found["lora_a"].shape[0])
        return found

    slots.rows().write(1, values)
