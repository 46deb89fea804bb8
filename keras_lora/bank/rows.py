"""Takes what rows need out of stacks, in one compiled call."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def taker() -> Callable[[Any, Any], Any]:
    """A function of a structure of stacks and of ids: each row's own part.

    It is compiled, once for each of the stacks' shapes: a model has many
    stacks, and a call for each would cost more than what they copy.
    """
    backend = keras.backend.backend()
    take = taken
    if backend == "tensorflow":
        import tensorflow as tf

        take = tf.function(taken)
    elif backend == "jax":
        import jax

        take = jax.jit(taken)

    def of_rows(stacks: Any, ids: Any) -> Any:
        # Values, in one list: variables and dicts are slow to hand over.
        values = [ops.stop_gradient(v) for v in keras.tree.flatten(stacks)]
        return keras.tree.pack_sequence_as(stacks, take(values, ids))

    return of_rows


def taken(stacks: list[Any], ids: Any) -> list[Any]:
    """Each row's part of every tensor (slots, ...)."""
    return [ops.take(stack, ids, axis=0) for stack in stacks]
