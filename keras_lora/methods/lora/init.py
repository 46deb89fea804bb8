"""Where LoRA factors start: at random, or in the base's kernels."""

import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_lora.methods.lora.spectrum import leading, least
from keras_lora.model.surgery import Layer

LOG = logging.getLogger("keras_lora")
Settings = dict[str, Any]
Fill = Callable[[dict[str, Any]], None]


class Start:
    """How the factors of new LoRA layers get their first values."""

    method: ClassVar[str] = "lora"
    """The method of the layers that it fills."""

    def problems(self, layers: dict[str, Layer]) -> list[str]:
        """Says which of some targets it cannot fill."""
        return []

    def begin(
        self, root: Layer, targets: dict[str, Layer], settings: Settings
    ) -> tuple[Settings, Fill]:
        """Looks at the base before anything is attached.

        Args:
            root: The base.
            targets: Layers by path.
            settings: Each one's settings.

        Returns:
            The settings to attach with, and what fills the hosts then.
        """
        return settings, lambda hosts: None


class FromKernel(Start):
    """Factors of a part of the kernel itself; the update counts from there.

    Args:
        part: Gives factors of a matrix for a rank.
    """

    method = "svd"

    def __init__(self, part: Callable[[Any, int], tuple[Any, Any]]) -> None:
        self.part = part

    def begin(
        self, root: Layer, targets: dict[str, Layer], settings: Settings
    ) -> tuple[Settings, Fill]:
        return settings, self.fill

    def fill(self, hosts: dict[str, Any]) -> None:
        begun = time.perf_counter()
        for host in hosts.values():
            kernel = ops.convert_to_numpy(host.kernel_matrix())
            a, b = self.part(kernel, host.adapter_settings["rank"])
            host.start_from(a, b / host.lora_scale)
        seconds = time.perf_counter() - begun
        LOG.info("SVD of %d kernels took %.1f s", len(hosts), seconds)


STARTS: dict[str, Start] = {
    "random": Start(),
    "svd": FromKernel(lambda w, rank: halves(*leading(w, rank))),
    "svd-minor": FromKernel(lambda w, rank: halves(*least(w, rank))),
}


def halves(u: Any, s: Any, vt: Any) -> tuple[Any, Any]:
    """Two factors of a matrix that share its singular values."""
    root = np.sqrt(s)
    return u * root, root[:, None] * vt


def start_of(init: str | Start) -> Start:
    """The start that a config's `init` stands for."""
    return STARTS[init] if isinstance(init, str) else init


def wrong_init(init: Any) -> list[str]:
    """Says what keeps a value from being an `init`."""
    if isinstance(init, Start) or (isinstance(init, str) and init in STARTS):
        return []
    listed = ", ".join(map(repr, STARTS))
    return [
        f"`init` must be one of {listed}, or keras_lora.EVA(batches). "
        f"Received: init={init!r}"
    ]
