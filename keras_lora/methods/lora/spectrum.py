"""Leading and least singular vectors of a matrix."""

from typing import Any

import numpy as np

EXACT_BELOW = 512
"""Smaller side up to which a whole SVD is cheap."""
MORE = 8
"""Directions tried beyond those wanted."""
ROUNDS = 4
"""How often a random guess is multiplied by the matrix and its transpose."""

Triple = tuple[Any, Any, Any]


def leading(w: Any, rank: int) -> Triple:
    """The largest singular values and their vectors, at most `rank`.

    Large matrices are not decomposed as a whole: a random subspace is turned
    towards the leading one (Halko et al., https://arxiv.org/abs/0909.4061).

    Args:
        w: Matrix (n, m).
        rank: How many.

    Returns:
        `u` (n, k), `s` (k,) and `vt` (k, m).
    """
    size = rank + MORE
    if min(w.shape) <= max(EXACT_BELOW, 2 * size):
        u, s, vt = np.linalg.svd(w, full_matrices=False)
    else:
        guess = np.random.default_rng(0).normal(size=(w.shape[1], size))
        q = np.linalg.qr(w @ guess.astype(w.dtype))[0]
        for _ in range(ROUNDS):
            q = np.linalg.qr(w.T @ q)[0]
            q = np.linalg.qr(w @ q)[0]
        u, s, vt = np.linalg.svd(q.T @ w, full_matrices=False)
        u = q @ u
    return u[:, :rank], s[:rank], vt[:rank]


def least(w: Any, rank: int) -> Triple:
    """The smallest singular values and their vectors, at most `rank`.

    Nothing random is near them: the whole matrix is decomposed.
    """
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return u[:, -rank:], s[-rank:], vt[-rank:]
