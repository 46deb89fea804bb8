"""A layer's place in an adapted base."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from keras_lora.model.surgery import Layer

Flags: TypeAlias = list[tuple[Any, bool]]
"""Variables, and whether each trains."""
Outputs: TypeAlias = Sequence[tuple[str, int]] | None
"""By which layer, and which of its tensors, each output is made."""


@dataclass(frozen=True)
class Base:
    """What all members of one adapted base share.

    Attributes:
        uid: Tells two adapted bases in one model apart.
        sampled: Whether digests are of samples.
        hosts: Paths of the layers with adapter weights.
        trained: Paths of the layers left trainable.
        outputs: Path and tensor index of what makes each output of the base;
            None where no layer does, or the base has no graph.
    """

    uid: str
    sampled: bool
    hosts: Sequence[str]
    trained: Sequence[str]
    outputs: Outputs


@dataclass(eq=False)
class Membership:
    """One layer's place in an adapted base, and how to undo it."""

    base: Base
    path: str
    flag: bool
    variable_flags: Flags
    digests: dict[str, list[Any]] | None = None
    originals: dict[str, np.ndarray] | None = None
    switched_off: list[tuple[Any, np.ndarray]] = field(default_factory=list)
    off_depth: int = 0
    plain: Any = None
    attached_with: Any = ()


def membership(layer: Layer) -> Membership | None:
    """A layer's membership, or None for a layer of no adapted base."""
    return layer.__dict__.get("_keras_lora")


def member_of(layer: Layer) -> Membership:
    """The membership of a layer that has one."""
    found = membership(layer)
    assert found is not None
    return found
