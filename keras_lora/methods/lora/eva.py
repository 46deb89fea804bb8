"""EVA: LoRA's `A` from the inputs of each layer."""

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_lora.errors import raise_if
from keras_lora.methods.lora.dense import LinearLoRA
from keras_lora.methods.lora.init import Initializer
from keras_lora.methods.lora.layers import lora_class
from keras_lora.methods.lora.spectrum import leading
from keras_lora.methods.method import Fill, Settings, SettingsOf
from keras_lora.model import surgery
from keras_lora.model.surgery import Layer
from keras_lora.settings import positive_number


@dataclass(frozen=True, eq=False)
class EVA(Initializer):
    """LoRA's `A` from what flows through the base on some data.

    `A` starts at the directions in which a layer's inputs spread most, `B` at
    zero. With `rho` above 1, rank moves from layers whose inputs need few
    directions to those that need more; how many ranks there are in all, and
    each layer's scale, stay.

    Args:
        batches: Iterable of batches of the base's inputs, each as the base is
            called with one.
        rho: Number of at least 1: no layer's rank grows by more than this
            factor. Layers may be left without any.

    Raises:
        ValueError: `rho` is out of its range.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    x = np.random.rand(64, 8)
    config = keras_lora.LoRAConfig(rank=2, init=keras_lora.EVA([x]))
    keras_lora.inject(base, config)
    ```

    References:
        - [One Initialization to Rule them All: Fine-tuning via Explained
          Variance Adaptation](https://arxiv.org/abs/2410.07170)
    """

    batches: Iterable[Any]
    rho: float = 1.0

    def __post_init__(self) -> None:
        problems = positive_number("rho", self.rho)
        if not problems and self.rho < 1:
            problems = [f"`rho` must be at least 1. Received: rho={self.rho}"]
        raise_if("EVA", problems)

    def problems(self, layers: dict[str, Layer]) -> list[str]:
        return [
            f"{path}: EVA reads the inputs of Dense and EinsumDense layers "
            f"that multiply by a matrix, and this {type(layer).__name__} is "
            "none"
            for path, layer in layers.items()
            if not reads_vectors(layer)
        ]

    def begin(
        self,
        root: Layer,
        targets: dict[str, Layer],
        settings: SettingsOf,
    ) -> tuple[SettingsOf, Fill]:
        room = {p: int(self.rho * s["rank"]) for p, s in settings.items()}
        inputs = {path: Inputs(room[path]) for path in targets}
        watch(root, targets, inputs, self.batches)
        raise_if(
            "inject: nothing was changed",
            [
                f"{path}: EVA saw no inputs of it"
                for path, seen in inputs.items()
                if seen.total == 0
            ],
        )
        ranks = {path: s["rank"] for path, s in settings.items()}
        if self.rho > 1:
            shares = {path: seen.shares for path, seen in inputs.items()}
            ranks = redistributed(shares, sum(ranks.values()))
        chosen = {p: with_rank(settings[p], n) for p, n in ranks.items() if n}

        def fill(hosts: dict[str, Any]) -> None:
            for path, host in hosts.items():
                a = ops.convert_to_numpy(host.lora_a).copy()
                found = inputs[path].basis[: a.shape[1]]
                found = found / np.linalg.norm(found, axis=1, keepdims=True)
                a[:, : len(found)] = found.T
                host.lora_a.assign(a)

        return chosen, fill


class Inputs:
    """What a layer's inputs span, batch after batch.

    Attributes:
        room: How many directions are kept.
        basis: Directions times their singular values (at most `room`, in).
        total: Sum of squares of all inputs.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.basis: Any = None
        self.total = 0.0

    def see(self, x: Any) -> None:
        """Takes rows (n, in) in."""
        self.total += float((x.astype("float64") ** 2).sum())
        if self.basis is not None:
            x = np.concatenate([self.basis, x])
        _, s, vt = leading(x, self.room)
        keep = s > 1e-6 * max(s[0], 1e-30)
        self.basis = s[keep, None] * vt[keep]

    @property
    def shares(self) -> Any:
        """Share of the sum of squares along each direction."""
        return (self.basis**2).sum(axis=1) / self.total


def reads_vectors(layer: Layer) -> bool:
    """Whether a layer multiplies the last axes of its input by a matrix."""
    found = lora_class(layer)
    if found is None or not issubclass(found, LinearLoRA):
        return False
    return bool(surgery.view(layer, found)._split().plain)


def watch(
    root: Layer,
    targets: dict[str, Layer],
    inputs: dict[str, Inputs],
    batches: Iterable[Any],
) -> None:
    """Runs batches through a base and shows each target's inputs."""

    def seen(path: str, call: Any, outputs: Any) -> None:
        layer = targets[path]
        x = surgery.first_argument(type(layer), *call)
        width = surgery.view(layer, lora_class(layer))._sizes()[0]  # type: ignore[arg-type]
        flat = np.reshape(ops.convert_to_numpy(x), (-1, width))
        inputs[path].see(flat.astype("float32"))

    with contextlib.ExitStack() as watched:
        for path, layer in targets.items():
            show = functools.partial(seen, path)
            watched.callback(surgery.record_calls(layer, show))
        for batch in batches:
            root(batch, training=False)


def redistributed(shares: dict[str, Any], budget: int) -> dict[str, int]:
    """How many directions each layer gets of those that explain most."""
    every = sorted(
        ((share, path) for path, found in shares.items() for share in found),
        key=lambda pair: -pair[0],
    )
    chosen = [path for _, path in every[:budget]]
    return {path: chosen.count(path) for path in shares}


def with_rank(settings: Settings, rank: int) -> Settings:
    """Settings of another rank and the same scale."""
    alpha = settings["alpha"] * rank / settings["rank"]
    return {**settings, "rank": rank, "alpha": alpha}
