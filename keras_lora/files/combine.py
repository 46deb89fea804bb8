"""Combining adapter files as values: a new file, no model needed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_lora.errors import raise_if, shorten
from keras_lora.files.format import (
    AdapterInfo,
    inspect_adapter,
    not_finite,
    read_tensors,
    record_of,
    write_adapter,
)
from keras_lora.files.record import HEAD
from keras_lora.methods.lora import LORA
from keras_lora.methods.lora.low_rank import low_rank_settings
from keras_lora.model.fingerprint import other_base
from keras_lora.model.paths import join, owner
from keras_lora.settings import is_int, is_number, positive_int, wrong_choice
from keras_lora.version import __version__

Array = np.ndarray


@dataclass(frozen=True)
class Combination:
    """What came of combining adapters; `print` it, or read its fields.

    Attributes:
        path: The file that was written.
        rank: The largest rank in it.
        kept: Share of the squared size of the update that is in it, 0 to 1.
    """

    path: str
    rank: int
    kept: float

    def __str__(self) -> str:
        share = f"{100 * self.kept:.2f} % of the update"
        return f"{self.path}: rank {self.rank} keeps {share}"


def combine(
    adapters: Sequence[tuple[str | os.PathLike[str], float]],
    path: str | os.PathLike[str],
    *,
    method: str = "cat",
    rank: int | None = None,
    head: int | Literal[False] | None = None,
) -> Combination:
    """Writes a LoRA file whose update is a weighted sum of others'.

    The result is a file like any other: it loads, merges and serves. Ranks
    and targets of the files may differ.

    Args:
        adapters: Pairs of a file and its weight, a finite number; a negative
            one subtracts.
        path: File to write, whole or not at all.
        method: `"cat"` puts the ranks side by side, which is exact;
            `"svd"` then keeps the directions in which the sum is largest;
            the result says how much of it.
        rank: Int above 0, the largest rank to keep; for `"svd"` alone.
        head: Number of the adapter, from 0, whose head goes into the file;
            False for none. None: the one head that there is, if there is one.

    Returns:
        A `Combination`.

    Raises:
        ValueError: A file cannot be read, is for another base than the first
            one, holds other than LoRA weights and a head; or an argument is
            not valid. Everything wrong is listed, and nothing is written.

    Example:

    ```python
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    for name in ("a", "b"):
        keras_lora.inject(base, keras_lora.LoRAConfig(rank=2))
        keras_lora.save_adapter(base, f"{name}.safetensors")
        keras_lora.eject(base)
    parts = [("a.safetensors", 1.0), ("b.safetensors", -0.5)]
    keras_lora.combine(parts, "both.safetensors")
    keras_lora.load_adapter(base, "both.safetensors")
    ```

    References:
        - [Editing Models with Task Arithmetic](
          https://arxiv.org/abs/2212.04089)
    """
    what = f"{path} was not written"
    raise_if(what, wrong_arguments(adapters, method, rank))
    infos = [inspect_adapter(file) for file, _ in adapters]
    problems = [p for info in infos for p in not_linear(info)]
    problems += [p for info in infos[1:] for p in for_another(infos[0], info)]
    problems += ill_shaped(infos)
    chosen, missing = head_to_keep(infos, head)
    raise_if(what, problems + missing)
    tensors = [read_tensors(info) for info in infos]
    weights = [float(weight) for _, weight in adapters]
    layers: dict[str, Any] = {}
    values: dict[str, Array] = {}
    kept = total = 0.0
    for layer in dict.fromkeys(p for info in infos for p in info.layers):
        parts = [
            factors(info, layer, mine, weight)
            for info, mine, weight in zip(infos, tensors, weights, strict=True)
            if layer in info.layers
        ]
        a = np.concatenate([a for a, _ in parts], axis=1)
        b = np.concatenate([b for _, b in parts], axis=0)
        energies = np.ones(1)
        if rank is not None:
            a, b, energies = shortened(a, b, rank)
        kept += float(energies[: a.shape[1]].sum())
        total += float(energies.sum())
        size = a.shape[1]  # its alpha too: the factors hold their scale
        layers[layer] = low_rank_settings(LORA.name, size, size, 0)
        with np.errstate(over="ignore"):  # what is too large is refused
            values[join(layer, "lora_a")] = a.astype("float32")
            values[join(layer, "lora_b")] = b.astype("float32")
    raise_if(what, not_finite(values))
    if chosen is not None:
        of_head = tensors[chosen].items()
        values |= {k: v for k, v in of_head if k.startswith(HEAD + "/")}
    kept_head = None if chosen is None else infos[chosen]
    described = replace(
        infos[0], labels=kept_head.labels if kept_head else (), about=""
    )
    record = {
        **record_of(described),
        "version": __version__,
        "layers": layers,
        "head": kept_head and kept_head.head,
    }
    write_adapter(path, values, record)
    largest = max(settings["rank"] for settings in layers.values())
    return Combination(str(Path(path)), largest, kept / total if total else 1)


def wrong_arguments(adapters: Any, method: Any, rank: Any) -> list[str]:
    """Says what of the arguments of `combine` is not valid."""
    problems = wrong_choice("method", method, ("cat", "svd"))
    if method == "svd":
        problems += positive_int("rank", rank)
    elif rank is not None:
        problems.append(f'`rank` is for "svd" alone. Received: rank={rank!r}')
    pairs = isinstance(adapters, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in adapters
    )
    if not pairs or not adapters:
        return [*problems, "`adapters` must be pairs of a file and a weight"]
    return problems + [
        f"the weight of {file} must be a finite number. Received: {weight!r}"
        for file, weight in adapters
        if not is_number(weight)
    ]


def not_linear(info: AdapterInfo) -> list[str]:
    """Says what of a file is no update that can be added to another."""
    problems = []
    others = [m for m in info.methods if m != "lora"]
    if others:
        problems.append(f"{info.path}: holds {', '.join(others)} weights")
    named = (*info.trained, *info.outside)
    if named:
        problems.append(f"{info.path}: trained layers too: {shorten(named)}")
    return problems


def ill_shaped(infos: list[AdapterInfo]) -> list[str]:
    """Says which factors are missing, or of shapes that do not go together.

    There is no base here to compare them with.
    """
    problems = []
    widths: dict[str, tuple[int, ...]] = {}
    for info in infos:
        if not info.layers:
            problems.append(f"{info.path}: holds no adapter weights")
        for path, settings in info.layers.items():
            keys = {join(path, name) for name in ("lora_a", "lora_b")}
            mine = {k for k in info.tensors if owner(k) == path}
            if mine != keys or "@" in path[:1]:
                problems.append(f"{info.path}: {path}: needs two factors")
                continue
            (_, a), (_, b) = (info.tensors[key] for key in sorted(keys))
            sizes = (*a[:1], *b[1:])
            rank = settings.get("rank")
            fits = len(a) == len(b) == 2 and a[1] == b[0] == rank
            if not fits or widths.setdefault(path, sizes) != sizes:
                problems.append(
                    f"{info.path}: {path}: factors of shapes {a} and {b}"
                )
    return problems


def for_another(first: AdapterInfo, info: AdapterInfo) -> list[str]:
    """Says how a file's base differs from that of the first."""
    problems = other_base(
        first.base["variables"], info.base["variables"], "the first file's"
    )
    return [f"{info.path} is for another base: {p}" for p in problems[:10]]


def head_to_keep(
    infos: list[AdapterInfo], head: Any
) -> tuple[int | None, list[str]]:
    """Which file's head goes into the result, if any."""
    heads = [n for n, info in enumerate(infos) if info.head is not None]
    if head is False or (head is None and not heads):
        return None, []
    if head is None and len(heads) == 1:
        return heads[0], []
    if is_int(head) and head in heads:
        return int(head), []
    there = ", ".join(map(str, heads)) or "none"
    return None, [
        "`head` must be the number of an adapter with a head, or False for "
        f"none; with a head: {there}. Received: head={head!r}"
    ]


def factors(
    info: AdapterInfo, layer: str, tensors: dict[str, Array], weight: float
) -> tuple[Array, Array]:
    """A file's factors of one layer; scale and weight are in the second."""
    settings = info.layers[layer]
    a = tensors[join(layer, "lora_a")].astype("float64")
    b = tensors[join(layer, "lora_b")].astype("float64")
    return a, b * (weight * settings["alpha"] / settings["rank"])


def shortened(a: Array, b: Array, rank: int) -> tuple[Array, Array, Array]:
    """The best factors of at most a rank, by SVD of two small triangles.

    Gives the squared singular values of their product before, too.
    """
    q_a, r_a = np.linalg.qr(a)
    q_b, r_b = np.linalg.qr(b.T)
    u, s, vt = np.linalg.svd(r_a @ r_b.T, full_matrices=False)
    k = min(rank, len(s))
    root = np.sqrt(s[:k])
    return (q_a @ u[:, :k]) * root, (root[:, None] * vt[:k]) @ q_b.T, s**2
