"""Two checks of one adapter, each on a private copy of the base."""

import threading
from dataclasses import dataclass

import numpy as np

import keras_lora
from app.serve.served import Served
from app.serve.service import Service

_ONE_AT_A_TIME = threading.Lock()
"""A copy of the base is 90 MB; two visitors take turns."""


@dataclass(frozen=True)
class Proof:
    """Largest differences of the base's features.

    Args:
        moved: between the adapted base and the bare one: not zero, or the
            other two would prove nothing.
        off: between the adapter switched off and the bare base.
        merged: between the update folded into the kernels and the adapter;
            None for bottlenecks, which no kernel can take up.
        restored: between the base after all that, ejected, and before.
    """

    moved: float
    off: float
    merged: float | None
    restored: float


def prove(service: Service, served: Served, texts: list[str]) -> Proof:
    """Attaches the adapter to a copy of the base and compares features."""
    inputs, _ = service.inputs(texts)
    with _ONE_AT_A_TIME:
        base = service.source.load_base(None)

        def features() -> np.ndarray:
            return np.asarray(base(inputs, training=False))

        bare = features()
        keras_lora.load_adapter(base, served.file, head=False)
        adapted = features()
        with keras_lora.disabled(base):
            off = features()
        keras_lora.eject(base)
        restored = features()
        merged = None
        if served.info.methods == ("lora",):
            keras_lora.load_adapter(base, served.file, head=False)
            keras_lora.merge(base)
            merged = features()
    return Proof(
        moved=_largest(adapted, bare),
        off=_largest(off, bare),
        merged=None if merged is None else _largest(merged, adapted),
        restored=_largest(restored, bare),
    )


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())
