"""Does a base keep the rows of a batch apart: tried out, not assumed."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lora.bank_inputs import IDS, with_ids
from keras_lora.bank_watch import (
    Call,
    Unfit,
    mixing_layer,
    others_moved,
    watch,
    without_rows,
)
from keras_lora.layers import lora_class
from keras_lora.residency import Residency
from keras_lora.routing import Routed
from keras_lora.stacks import LORA, Kind
from keras_lora.surgery import Layer

LENGTHS = (8, 4, 2, 1, 16, 32, 64, 128, 224)
"""Sizes tried for axes that a base leaves open."""
COUNTS = (5, 7, 11, 13, 17, 19, 23)
"""Rows to watch: a prime that no axis is a multiple of tells rows apart."""
LARGEST = 128
"""Most rows tried at a time."""


def probe(base: Layer, layers: dict[str, Layer], inputs: Any) -> Unfit:
    """Gives one row other contents, then a random adapter; watches the rest.

    Args:
        base: The base, plain; it is plain again afterwards.
        layers: Its layers by path.
        inputs: Symbolic inputs of its structure.

    Raises:
        ValueError: Another row moved (the layer that mixes rows is named), or
            the base cannot be run by rows.
    """
    trial = Trial(base, layers, inputs)
    unfit = trial.watch_contents()
    slots = Residency(layers, 1)
    able = {
        path: [Kind(LORA, 1)]
        for path, layer in layers.items()
        if lora_class(layer) and path not in unfit.inputs
    }
    try:
        slots.provide(able)
        fill_at_random(slots)
        trial.try_adapters()
    finally:
        slots.close()
    return unfit


class Trial:
    """A base run on random rows."""

    def __init__(
        self, base: Layer, layers: dict[str, Layer], inputs: Any
    ) -> None:
        self.base, self.layers, self.inputs = base, layers, inputs
        self.length = LENGTHS[0]
        self.routed = Routed(base, lambda: 2)
        self.compiled: Any = None

    def watch_contents(self) -> Unfit:
        """Changes the contents of one row and watches all layers."""
        rows, before, outputs = self.first_run()
        row = rows // 2
        x = self.random_inputs(rows)
        for value in keras.tree.flatten(x):
            value[row] = 1 - value[row]
        after, moved = self.watched(x)
        if others_moved(outputs, moved, row):
            raise self.mixes(rows, mixing_layer(before, after, row))
        pairs = list(zip(before, after, strict=True))
        return Unfit(
            frozenset(
                one.path
                for one, two in pairs
                if without_rows(one.inputs, two.inputs)
            ),
            frozenset(
                one.path
                for one, two in pairs
                if without_rows(one.outputs, two.outputs)
                or others_moved(one.outputs[:1], two.outputs[:1], row)
            ),
        )

    def first_run(self) -> tuple[int, list[Call], Any]:
        """Finds a size for open axes that the base runs with."""
        problem: Exception | None = None
        for length in LENGTHS if self.has_open_axes() else LENGTHS[:1]:
            self.length = length
            rows = next(n for n in COUNTS if self.tells_apart(n))
            x = self.random_inputs(rows)
            try:
                calls, outputs = self.watched(x)
            except Exception as error:
                problem = problem or error
                continue
            self.check_outputs(self.run(x), rows)
            return rows, calls, outputs
        raise ValueError(
            f"AdapterBank was not made.\n- {self.base.name!r} does not run on "
            f"random inputs: {problem}"
        ) from problem

    def watched(self, x: Any, adapted: int | None = None) -> Any:
        """The calls in a run, and what came out."""
        rows = len(keras.tree.flatten(x)[0])
        return watch(lambda: self.run(x, adapted), self.layers, rows)

    def has_open_axes(self) -> bool:
        """Whether any input has an axis of any size beside the batch."""
        flat = keras.tree.flatten(self.inputs)
        return any(None in tensor.shape[1:] for tensor in flat)

    def tells_apart(self, count: int) -> bool:
        """Whether no axis of the inputs is a multiple of so many rows."""
        return count == COUNTS[-1] or all(
            (size or self.length) % count
            for tensor in keras.tree.flatten(self.inputs)
            for size in tensor.shape[1:]
        )

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
        if problems:
            text = "\n".join(f"- {problem}" for problem in problems)
            raise ValueError(f"AdapterBank was not made.\n{text}")

    def run(self, x: Any, adapted: int | None = None) -> Any:
        """Runs the base eagerly, with the adapter on one row or none."""
        tensors = keras.tree.map_structure(ops.convert_to_tensor, x)
        ids = ops.convert_to_tensor(self.ids(x, adapted))
        return self.routed(tensors, ids)

    def try_adapters(self) -> None:
        """Gives one row an adapter, at every size of batch that may matter."""
        for rows in self.batch_sizes():
            x, row = self.random_inputs(rows), rows // 2
            try:
                mixed = self.reaches_others(x, row)
            except Exception as error:
                raise ValueError(
                    f"AdapterBank was not made.\n- {self.base.name!r} does "
                    f"not run with an adapter a row: {error}"
                ) from error
            if mixed:
                (one, _), (two, _) = self.watched(x), self.watched(x, row)
                raise self.mixes(rows, mixing_layer(one, two, row))

    def reaches_others(self, x: Any, row: int) -> bool:
        """Whether a row's adapter moves any other row's output."""
        run = self.runner()
        before, after = run(x, None), run(x, row)
        for one, two in zip(
            keras.tree.flatten(before), keras.tree.flatten(after), strict=True
        ):
            one, two = (
                np.delete(ops.convert_to_numpy(y).astype("float32"), row, 0)
                for y in (one, two)
            )
            if not np.allclose(one, two, 1e-4, 1e-5, equal_nan=True):
                return True
        return False

    def runner(self) -> Any:
        """What runs a batch: JAX compiles whole models sooner than each op."""
        if keras.backend.backend() != "jax":
            return self.run
        if self.compiled is None:
            ids = keras.Input((), dtype="int32", name=IDS)
            outputs = self.routed(self.inputs, ids)
            self.compiled = keras.Model(with_ids(self.inputs, ids), outputs)
        return lambda x, row: self.compiled.predict_on_batch(
            with_ids(x, self.ids(x, row), self.inputs)
        )

    def ids(self, x: Any, adapted: int | None) -> np.ndarray:
        """Slot 1 for one row or none, 0 for the others."""
        ids = np.zeros(len(keras.tree.flatten(x)[0]), "int32")
        if adapted is not None:
            ids[adapted] = 1
        return ids

    def batch_sizes(self) -> list[int]:
        """2, 3, and the size of every other axis of the inputs."""
        sizes = {2, 3}
        for tensor in keras.tree.flatten(self.inputs):
            sizes |= {size or self.length for size in tensor.shape[1:]}
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


def fill_at_random(slots: Residency) -> None:
    """Puts random factors into slot 1 of every host."""
    rng = np.random.default_rng(0)
    for host in slots.hosts.values():
        stack = host.stacks[LORA]
        values = {
            name: rng.normal(size=variable.shape[1:]).astype("float32")
            for name, variable in stack.variables.items()
        }
        values["lora_a"] /= np.sqrt(values["lora_a"].shape[0])
        stack.write(1, values)
