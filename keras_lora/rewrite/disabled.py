"""Switching an adapter off for a while, by values alone."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from keras import ops

from keras_lora.errors import raise_if
from keras_lora.model.paths import own_variables
from keras_lora.model.surgery import Layer
from keras_lora.rewrite.adapted import Adapted
from keras_lora.rewrite.member import is_host
from keras_lora.rewrite.membership import member_of

_SWITCH = threading.RLock()
HARMLESS = 2.0**-10
"""What weights are while others, at zero, switch their adapter off: values of
theirs that are finite but huge would give infinity, and infinity times zero is
not zero. Not zero itself, or nothing would train and none could tell."""


@contextlib.contextmanager
def disabled(model: Any) -> Iterator[Any]:
    """Switches the adapter off for the length of a `with` block.

    The model then gives the base's output. Nothing is traced again: what
    changes are values. They change for the whole process; serve different
    adapters at a time from an `AdapterBank`.

    Args:
        model: The adapted model, or one it is nested in.

    Yields:
        The same model.

    Raises:
        ValueError: The model holds no adapter, several or a part of one; or
            it was trained inside the block, which is undone.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    with keras_lora.disabled(base):
        y = base.predict(np.ones((1, 8)), verbose=0)
    ```
    """
    adapted = Adapted(model)
    problems = adapted.problems + adapted.without_originals
    raise_if("disabled: nothing was changed", problems)
    found = adapted.layers
    with _SWITCH:
        for layer in found.values():
            _switch_off(layer)
    try:
        yield model
    finally:
        with _SWITCH:
            moved = [p for p, layer in found.items() if not _switch_on(layer)]
    raise_if(
        "Weights were trained while their adapter was off, and set back",
        moved,
    )


def _off_values(layer: Layer) -> dict[str, tuple[Any, Any]]:
    """Variables that a switched-off member changes, and to which values."""
    if is_host(layer):
        return {
            name: (weight, 0.0 if name in layer.neutral_weights else HARMLESS)
            for name, weight in layer.adapter_weights.items()
        }
    own = own_variables(layer)
    originals = member_of(layer).originals or {}
    return {name: (own[name], value) for name, value in originals.items()}


def _switch_off(layer: Layer) -> None:
    mine = member_of(layer)
    mine.off_depth += 1
    if mine.off_depth > 1:
        return
    for variable, value in _off_values(layer).values():
        kept = ops.convert_to_numpy(variable).copy()
        mine.switched_off.append((variable, kept))
        variable.assign(
            ops.broadcast_to(ops.cast(value, variable.dtype), variable.shape)
        )


def _switch_on(layer: Layer) -> bool:
    """Sets the values back; says whether they were as `_switch_off` left."""
    mine = member_of(layer)
    mine.off_depth -= 1
    if mine.off_depth:
        return True
    untouched = all(
        bool((ops.convert_to_numpy(variable) == value).all())
        for variable, value in _off_values(layer).values()
    )
    for variable, value in mine.switched_off:
        variable.assign(value)
    mine.switched_off.clear()
    return untouched
