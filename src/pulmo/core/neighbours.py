"""How far embeddings lie from those of a reference: cosine distance to the k-th nearest one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_BLOCK = 1024  # queries compared with the reference at once


def directions(embeddings: NDArray[np.floating]) -> Array:
    """Embeddings [n, D] scaled to length one; a zero vector stays zero."""
    vectors = embeddings.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return found


def distances(
    embeddings: Array, reference: Array, neighbours: int, own: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Cosine distance (0 to 2) of each embedding [N, D] to its k-th nearest direction [n, D].

    With `own` [n] the embeddings are the reference's own, and rows of an equal value do not count.
    """
    found = []
    for start in range(0, len(embeddings), _BLOCK):
        apart = 1 - directions(embeddings[start : start + _BLOCK]) @ reference.T
        if own is not None:
            apart[own[start : start + _BLOCK, None] == own] = np.inf
        nearest = np.partition(apart, neighbours - 1, axis=1)[:, neighbours - 1]
        found.append(np.maximum(nearest, 0).astype(np.float64))
    return np.concatenate(found) if found else np.zeros(0)
