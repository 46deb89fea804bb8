"""Where an adapter sits and how large its updates are, from its file alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


@dataclass(frozen=True)
class Cell:
    """One layer of the base in the picture.

    Args:
        block: the part of the base that the layer is in.
        layer: its name there.
        method: "LoRA", "bottleneck", "ladder", or "none" where nothing sits.
        size: rank or width, for people.
        norm: Frobenius norm of the update, or of all weights of a ladder's
            stage; None where nothing sits.
    """

    block: str
    layer: str
    method: str
    size: str
    norm: float | None


def cells(info: Any, file: Path, paths: list[str]) -> list[Cell]:
    """Every layer that could be adapted, with its update where it has one."""
    tensors = load_file(file)
    order = list(dict.fromkeys([*paths, *info.layers]))
    return [_cell(path, info.layers.get(path), tensors) for path in order]


def _cell(path: str, settings: Any, tensors: dict[str, np.ndarray]) -> Cell:
    parts = path.split("/")
    block, layer = parts[0], parts[-1]
    if len(parts) == 1:
        block = "model"
    if settings is None:
        return Cell(block, layer, "none", "", None)
    own = {
        key.removeprefix(path + "/"): value
        for key, value in tensors.items()
        if key.startswith(path + "/")
    }
    if settings["method"] == "lora":
        rank, alpha = settings["rank"], settings["alpha"]
        norm = low_rank_norm(own["lora_a"], own["lora_b"]) * alpha / rank
        return Cell(block, layer, "LoRA", f"rank {rank}", norm)
    if settings["method"] == "side":
        norm = float(np.linalg.norm(own["stage"].astype("float64")))
        return Cell(block, layer, "ladder", f"width {settings['width']}", norm)
    down, up = own["down_kernel"], own["up_kernel"]
    norm = low_rank_norm(down, up)
    return Cell(block, layer, "bottleneck", f"width {len(up)}", norm)


def low_rank_norm(a: np.ndarray, b: np.ndarray) -> float:
    """The Frobenius norm of `a @ b` without forming it.

    Args:
        a: (..., in, rank)
        b: (rank, ...)

    From two rank x rank matrices: |AB|^2 = trace((A'A)(BB')).
    """
    a = a.reshape(-1, a.shape[-1]).astype("float64")
    b = b.reshape(b.shape[0], -1).astype("float64")
    return float(np.sqrt(max(0.0, np.sum((a.T @ a) * (b @ b.T)))))
