"""What an adapted model trains, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lora.errors import raise_if
from keras_lora.methods import METHODS
from keras_lora.methods.lora import lora_class
from keras_lora.model import surgery
from keras_lora.rewrite.adapted import Adapted
from keras_lora.targets import mostly_elsewhere


def count(variables: Any) -> int:
    """Number of values in some variables."""
    return sum(int(np.prod(variable.shape)) for variable in variables)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]


@dataclass(frozen=True)
class Row:
    """One adapted layer, or one left trainable."""

    path: str
    layer: str
    method: str
    size: str
    parameters: int


@dataclass(frozen=True)
class Summary:
    """A table of adapted layers; `print` it, or read its fields.

    Attributes:
        rows: One `Row` a layer.
        trainable: Values that train, head included.
        total: Values in all, adapter and head included.
        percent: The first as a share of the second.
        note: Where most of the base's weights are, if in layers of kinds that
            have no adapter, such as experts of a mixture; else empty.
    """

    rows: tuple[Row, ...]
    trainable: int
    total: int
    note: str = ""

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        head = ("layer", "class", "method", "size", "parameters")
        cells = [head] + [
            (r.path, r.layer, r.method, r.size, f"{r.parameters:,}")
            for r in self.rows
        ]
        lines = aligned(cells)
        lines.append(
            f"trainable: {self.trainable:,} of {self.total:,} "
            f"({self.percent:.2f} %)"
        )
        return "\n".join([*lines, *filter(None, [self.note])])


def summary(model: Any) -> Summary:
    """Lists the adapted layers, and how much of the model trains.

    Args:
        model: The adapted model, or one it is nested in.

    Returns:
        A `Summary` to print: a row for each adapted layer with its method, size
        and number of adapter values, then the trainable count and share of
        the whole model.

    Raises:
        ValueError: The model holds no adapter, several or a part of one.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
    print(keras_lora.summary(base))
    ```
    """
    found = Adapted(model)
    raise_if("summary", found.problems)
    rows = [
        Row(
            path,
            type(host).__name__,
            host.adapter_settings["method"],
            METHODS[host.adapter_settings["method"]].size(
                host.adapter_settings, host.adapter_weights
            ),
            count(host.adapter_weights.values()),
        )
        for path, host in found.hosts.items()
    ]
    for path, layer in found.layers.items():
        own = [] if surgery.children(layer) else layer.trainable_weights
        trains = not hasattr(layer, "adapter_weights") and own
        if trains:
            rows.append(
                Row(path, type(layer).__name__, "trained", "", count(own))
            )
    return Summary(
        tuple(rows),
        count(model.trainable_weights),
        count(model.weights),
        mostly_elsewhere(
            found.layers,
            {row.path for row in rows},
            [p for p, layer in found.layers.items() if lora_class(layer)],
        ),
    )
