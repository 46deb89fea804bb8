"""Variables that hold many slots each: some slots are read, one is written.

Writing a slot through Keras makes each variable anew, all of its slots. These
are the backends' own ways to leave the others alone.
"""

import functools
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

Read: TypeAlias = Callable[[Any], list[Any]]
Write: TypeAlias = Callable[[int, Sequence[np.ndarray]], None]


def slots_of(stack: Any, ids: Any) -> Any:
    """What a variable or tensor (slots, ...) has in some slots, or in one.

    Once a slot of a variable was written alone, TensorFlow copies all of it
    for who reads its value; of who asks for slots it copies these.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(stack, keras.Variable):
            return tf.gather(stack.value, ids)
    return ops.take(stack, ids, axis=0)


class Stacked:
    """Variables (slots, ...) by any key, read and written by slot.

    What it compiles is over these very variables, so that it goes with them.
    Nobody may read them while a slot is written.

    Args:
        variables: The variables, float32.
        whole: Keys of those that are read otherwise than by `slots_of`.
    """

    def __init__(
        self,
        variables: Mapping[Any, Any],
        whole: Collection[Hashable] = (),
    ) -> None:
        self.keys = list(variables)
        given = [(variables[key], key in whole) for key in self.keys]
        kinds = {"tensorflow": _by_tensorflow, "jax": _by_jax}
        make = kinds.get(keras.backend.backend(), _by_torch)
        self._read, self._write = make(given)

    def read(self, ids: Any) -> dict[Any, Any]:
        """What is in some slots (rows,): a tensor (rows, ...) by key."""
        return dict(zip(self.keys, self._read(ids), strict=True))

    def write(self, slot: int, values: Sequence[np.ndarray]) -> None:
        """Sets one slot of each variable, in their order."""
        self._write(slot, values)


def _by_tensorflow(variables: list[tuple[Any, bool]]) -> tuple[Read, Write]:
    import tensorflow as tf

    # Partials: by their code TensorFlow would take the functions of several
    # banks for one that is traced over and over, and warn.
    ids = tf.TensorSpec([None], tf.int32)
    values = tf.TensorSpec([None], tf.float32)
    read = tf.function(
        functools.partial(_read_by_tensorflow, variables),
        input_signature=[ids],
        autograph=False,
    )
    put = tf.function(
        functools.partial(_put_by_tensorflow, variables),
        input_signature=[ids, values],
        autograph=False,
    )

    def write(slot: int, values: Sequence[np.ndarray]) -> None:
        # As one tensor: to hand many over would take longer than writing.
        joined = np.concatenate([value.reshape(-1) for value in values])
        put(tf.constant([slot]), tf.constant(joined))

    return read, write


def _read_by_tensorflow(
    variables: list[tuple[Any, bool]], ids: Any
) -> list[Any]:
    return [slots_of(variable, ids) for variable, _ in variables]


def _put_by_tensorflow(
    variables: list[tuple[Any, bool]], slot: Any, values: Any
) -> None:
    import tensorflow as tf

    sizes = [math.prod(variable.shape[1:]) for variable, _ in variables]
    parts = tf.split(values, sizes)
    for (variable, whole), part in zip(variables, parts, strict=True):
        part = tf.reshape(part, (1, *variable.shape[1:]))
        stack = variable.value
        if whole:
            new = tf.tensor_scatter_nd_update(stack, slot[:, None], part)
            stack.assign(new)
        else:
            tf.raw_ops.ResourceScatterUpdate(
                resource=stack.handle, indices=slot, updates=part
            )


def _by_jax(variables: list[tuple[Any, bool]]) -> tuple[Read, Write]:
    import jax

    take = jax.jit(_take)
    # The old values are given away, so that they are changed where they are.
    put = jax.jit(_put, donate_argnums=0)

    def read(ids: Any) -> list[Any]:
        found: list[Any] = take([v.value for v, _ in variables], ids)
        return found

    def write(slot: int, values: Sequence[np.ndarray]) -> None:
        stacks = [variable.value for variable, _ in variables]
        written = put(stacks, slot, list(values))
        for (variable, _), stack in zip(variables, written, strict=True):
            variable.assign(stack)

    return read, write


def _take(stacks: list[Any], ids: Any) -> list[Any]:
    return [ops.take(stack, ids, axis=0) for stack in stacks]


def _put(stacks: list[Any], slot: Any, values: list[Any]) -> list[Any]:
    return [
        stack.at[slot].set(value)
        for stack, value in zip(stacks, values, strict=True)
    ]


def _by_torch(variables: list[tuple[Any, bool]]) -> tuple[Read, Write]:
    import torch

    def read(ids: Any) -> list[Any]:
        with torch.no_grad():
            return _take([variable for variable, _ in variables], ids)

    def write(slot: int, values: Sequence[np.ndarray]) -> None:
        with torch.no_grad():
            for (variable, _), value in zip(variables, values, strict=True):
                variable.value[slot] = torch.tensor(value)

    return read, write
