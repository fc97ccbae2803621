"""How right the remaining answers are as more of them are left to a human."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pulmo.core.bundle import Estimate
from pulmo.core.calibration import refer_band
from pulmo.core.metrics import Mask, Statistic, mean

SHARES = tuple(round(0.02 * i, 2) for i in range(26))  # none to one half


def refer_curve(
    right: Mask,
    scores: NDArray[np.floating],
    threshold: float | None,
    draw: Callable[[Mapping[str, Statistic]], dict[str, Estimate]],
) -> dict[str, list[float]]:
    """`referred`, `accuracy`, `low` and `high` for none to half of n answers referred.

    `right` [n] says which answers are; `scores` [n] are what the decision rule looks at. For each
    share the doubtful ones are those of the band that the model's own rule would choose
    (`core.calibration.refer_band`). `draw` gives statistics their intervals. This is the
    accuracy-rejection curve of Nadeem et al. 2009.
    """
    kept = {}
    for share in SHARES:
        low, high = refer_band(scores, threshold, share)
        mask = ~((scores >= low) & (scores < high))
        if mask.any():
            kept[float(1 - mask.mean())] = mask
    named = {f"{share}": mean(right, mask) for share, mask in kept.items()}
    found = draw(named)
    curve: dict[str, list[float]] = {"referred": [], "accuracy": [], "low": [], "high": []}
    for share, one in zip(kept, found.values(), strict=True):
        if one.value is None or one.low is None or one.high is None:
            continue
        values = (share, one.value, one.low, one.high)
        for name, value in zip(curve, values, strict=True):
            curve[name].append(round(value, 6))
    return curve


def mcnemar(right: Mask, other: Mask) -> float:
    """The exact two-sided p of McNemar 1947 for two models' right answers [n] on equal pictures.

    Under the null hypothesis a picture that only one of them gets right is either's as easily;
    the p is that of a fair coin. One where they never differ.
    """
    first, second = int((right & ~other).sum()), int((other & ~right).sum())
    tosses, fewer = first + second, min(first, second)
    term, total = 1, 0  # whole numbers: exact for any n
    for k in range(fewer + 1):
        total += term
        term = term * (tosses - k) // (k + 1)
    return min(1.0, 2 * total / (1 << tosses))
