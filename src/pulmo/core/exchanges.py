"""Who changes sides with whom: the random exchanges of a permutation test between two samples."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pulmo.core.randomness import uniforms

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_SEED = 0


def exchanges(groups: Indices, size: int, count: int) -> Array:
    """Who stands in a window of `size`: 0 or 1, [N, 1 + count], a column an exchange.

    First the first pictures do, then who does is drawn; pictures of one group [N] change sides
    together, but where the window is full before.
    """
    return _drawn(groups.astype(np.int64).tobytes(), size, count)


@lru_cache(maxsize=4)
def _drawn(groups: bytes, size: int, count: int) -> Array:
    keys = _keys(np.frombuffer(groups, dtype=np.int64), count)
    inside = np.zeros((1 + count, keys.shape[1]), dtype=np.float32)
    inside[0, :size] = 1
    np.put_along_axis(inside[1:], np.argpartition(keys, size - 1, axis=1)[:, :size], 1, axis=1)
    columns = np.ascontiguousarray(inside.T)
    columns.flags.writeable = False
    return columns


def _keys(groups: Indices, count: int) -> Floats:
    """Random numbers [count, N], equal within a group."""
    return uniforms(_SEED, 1, np.arange(count), int(groups.max()) + 1)[:, groups]


def exchanges_within(groups: Indices, now: Indices, usual: Indices, count: int) -> Array:
    """As `exchanges`, but every class of `now` [size] keeps its number in the window."""
    own = np.concatenate([now, usual])
    keys = _keys(groups, count)
    inside = np.zeros((1 + count, len(own)), dtype=np.float32)
    inside[0, : len(now)] = 1
    for one in np.unique(now):
        places, size = np.flatnonzero(own == one), int((now == one).sum())
        first = places[np.argsort(keys[:, places], axis=1)[:, :size]]
        np.put_along_axis(inside[1:], first, 1, axis=1)
    return np.ascontiguousarray(inside.T)
