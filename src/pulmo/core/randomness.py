"""Random numbers keyed by (seed, epoch, sample): the same ones whatever was drawn before.

That is what makes a resumed or a distributed run equal to an unbroken one on one machine.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of `n` samples in one epoch: int64 [n]."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(n).astype(np.int64)


def uniforms(seed: int, epoch: int, samples: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """`draws` numbers in [0, 1) for every sample id of `samples` [n]: float64 [n, draws].

    SplitMix64 (Steele et al. 2014) over the key; good enough for augmentation, not for secrets.
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ np.uint64(epoch))
        rows = _mix(samples.astype(np.uint64) * _GOLDEN ^ key)[:, None]
        bits = _mix(rows + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(bits: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    bits = np.asarray(bits, dtype=np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
