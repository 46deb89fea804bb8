"""Where LoRA factors start: at random, or in the base's kernels."""

import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.lora.spectrum import leading, least
from keras_lora.methods.method import Fill, SettingsOf, as_initialized
from keras_lora.model.surgery import Layer

LOG = logging.getLogger("keras_lora")


class Initializer:
    """How the factors of new LoRA layers get their first values."""

    method: ClassVar[str] = "lora"
    """The method of the layers that it fills."""

    def problems(self, layers: dict[str, Layer]) -> list[str]:
        """Says which of some targets it cannot fill."""
        return []

    def begin(
        self,
        root: Layer,
        targets: dict[str, Layer],
        settings: SettingsOf,
    ) -> tuple[SettingsOf, Fill]:
        """What a `Plan` begins with."""
        return as_initialized(root, targets, settings)


class FromKernel(Initializer):
    """Factors of a part of the kernel itself; the update counts from there.

    Args:
        part: Gives factors of a matrix for a rank.
    """

    method = "svd"

    def __init__(self, part: Callable[[Any, int], tuple[Any, Any]]) -> None:
        self.part = part

    def begin(
        self,
        root: Layer,
        targets: dict[str, Layer],
        settings: SettingsOf,
    ) -> tuple[SettingsOf, Fill]:
        return settings, self.fill

    def fill(self, hosts: dict[str, Any]) -> None:
        begun = time.perf_counter()
        for host in hosts.values():
            kernel = ops.convert_to_numpy(host.kernel_matrix())
            a, b = self.part(kernel, host.adapter_settings["rank"])
            host.start_from(a, b / host.lora_scale)
        seconds = time.perf_counter() - begun
        LOG.info("SVD of %d kernels took %.1f s", len(hosts), seconds)


PISSA = FromKernel(lambda w, rank: halves(*leading(w, rank)))
MILORA = FromKernel(lambda w, rank: halves(*least(w, rank)))
INITIALIZERS: dict[str, Initializer] = {
    "random": Initializer(),
    "pissa": PISSA,
    "milora": MILORA,
    "svd": PISSA,
    "svd-minor": MILORA,
}
"""By name; the last two are older names."""


def halves(u: Any, s: Any, vt: Any) -> tuple[Any, Any]:
    """Two factors of a matrix that share its singular values."""
    root = np.sqrt(s)
    return u * root, root[:, None] * vt


def initializer_of(init: str | Initializer) -> Initializer:
    """The initializer that a config's `init` stands for."""
    return INITIALIZERS[init] if isinstance(init, str) else init


def wrong_init(init: Any) -> list[str]:
    """Says what keeps a value from being an `init`."""
    if isinstance(init, Initializer) or (
        isinstance(init, str) and init in INITIALIZERS
    ):
        return []
    listed = ", ".join(map(repr, INITIALIZERS))
    return [
        f"`init` must be one of {listed}, or keras_lora.EVA(batches). "
        f"Received: init={init!r}"
    ]
