"""Small files in the form of Fashion-MNIST's."""

import gzip
import struct
from pathlib import Path

import numpy as np

SMALL = 100


def images_file(images: np.ndarray) -> bytes:
    """Images as an idx file."""
    head = struct.pack(">4I", 0x0803, *images.shape)
    return gzip.compress(head + images.tobytes(), 1)


def labels_file(labels: np.ndarray) -> bytes:
    """Labels as an idx file."""
    return gzip.compress(
        struct.pack(">2I", 0x0801, len(labels)) + bytes(labels)
    )


def write_fashion(folder: Path, count: int = SMALL) -> Path:
    """Writes the four files: noise as bright as the label says.

    The first pixel is the label.
    """
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 100, (count, 28, 28), "uint8")
        labels = rng.permutation(np.arange(count, dtype="uint8") % 10)
        images += 15 * labels[:, None, None]
        images[:, 0, 0] = labels
        for name, content in (
            ("images-idx3", images_file(images)),
            ("labels-idx1", labels_file(labels)),
        ):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(content)
    return folder
