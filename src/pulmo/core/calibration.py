"""What is chosen on validation data: temperature, threshold and refer band.

All of it is deterministic and rounded, so that float noise never changes a model's digest.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pulmo.errors import DataError

DECIMALS = 6
COLDEST, HOTTEST = 0.05, 20.0

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Objective = Literal["balanced_accuracy", "accuracy"]

_HALVINGS = 60


def temperature(logits: NDArray[np.floating], labels: Labels) -> float:
    """The temperature in [0.05, 20] that minimises the log loss of softmax(logits / T).

    logits [n, K], labels int64 [n]. Guo et al. 2017, "On calibration of modern neural networks".
    The loss is convex in 1 / T, so the zero of its slope is found by halving. One extra picture of
    unknown class is spread over the labels (after Platt 1999): without it, validation data that a
    model separates entirely would ask for infinite confidence.
    """
    _check(logits, "logits", len(labels))
    scores: Floats = np.asarray(logits, dtype=np.float64)
    n, classes = scores.shape
    doubt = 1 / (n + 1)
    targets = (1 - doubt) * np.eye(classes)[labels] + doubt / classes
    wanted = float((targets * scores).sum())
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = float((softmax(scores / np.exp(middle)) * scores).sum())
        if expected > wanted:  # too sure: a hotter softmax is better
            low = middle
        else:
            high = middle
    return round(float(np.exp((low + high) / 2)), DECIMALS)


def softmax(logits: Floats) -> Floats:
    """exp(logits) over its sum along the last axis, float64."""
    powers: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def threshold(scores: NDArray[np.floating], hits: NDArray[np.bool_], objective: Objective) -> float:
    """The score from which the positive class is answered: the middle of the best plateau.

    scores [n] in 0..1 are the probabilities of the positive class, `hits` says where it is true.
    Between two neighbouring scores the objective does not change; of several best stretches the
    widest is taken. Raises DataError where one class is missing.
    """
    _check(scores, "probabilities", len(hits))
    positives, negatives = int(hits.sum()), int((~hits).sum())
    if not positives or not negatives:
        raise DataError("a threshold needs validation pictures of both classes: widen data.splits")
    order = np.argsort(scores, kind="stable")
    ranked: Floats = np.asarray(scores, dtype=np.float64)[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True]) + 1
    missed = np.r_[0, np.cumsum(hits[order])[ends - 1]]
    rejected = np.r_[0, np.cumsum(~hits[order])[ends - 1]]
    if objective == "accuracy":
        gain = rejected - missed
    else:  # compared as whole numbers: a tie is a tie
        gain = rejected * positives - missed * negatives
    edges = np.r_[0.0, ranked[ends - 1], 1.0]
    if edges[-2] == 1:  # no threshold rejects a score of 1
        gain, edges = gain[:-1], edges[:-1]
    low, high = _widest(gain == gain.max(), edges)
    return between(low, high)


def refer_band(
    scores: NDArray[np.floating], threshold: float | None, share: float
) -> tuple[float, float]:
    """The band [low, high) that holds about `share` of the scores [n].

    With a threshold: as many answers below it as above it (what one side lacks, the other gives).
    Without, the scores are largest probabilities and the band begins at 0.
    """
    _check(scores, "probabilities", len(scores))
    ranked: Floats = np.sort(np.asarray(scores, dtype=np.float64))
    count = round(share * len(ranked))
    if count == 0:
        return (0.0, 0.0) if threshold is None else (threshold, threshold)
    if threshold is None:
        return 0.0, _cut(ranked, count)
    middle = int(np.searchsorted(ranked, threshold, side="left"))
    first = min(max(middle - count // 2, 0), len(ranked) - count)
    low, high = _cut(ranked, first), _cut(ranked, first + count)
    return min(low, threshold), max(high, threshold)


def between(low: float, high: float) -> float:
    """The middle of (low, high], with six decimals or as many more as it takes to lie there."""
    middle = (low + high) / 2
    for decimals in range(DECIMALS, 17):
        rounded = round(middle, decimals)
        if low < rounded <= high:
            return rounded
    return middle


def _cut(ranked: Floats, index: int) -> float:
    """A score that has `index` of the ranked scores below it (ties stay together)."""
    if index == 0:
        return 0.0
    if index == len(ranked):
        return 1.0
    return between(float(ranked[index - 1]), float(ranked[index]))


def _widest(best: NDArray[np.bool_], edges: Floats) -> tuple[float, float]:
    """The widest run of best cuts; cut i lies in (edges[i], edges[i + 1]]."""
    steps = np.diff(np.r_[0, best.astype(np.int8), 0])
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    widest = int(np.argmax(edges[stops] - edges[starts]))
    return float(edges[starts[widest]]), float(edges[stops[widest]])


def _check(values: NDArray[np.floating], what: str, n: int) -> None:
    if n == 0 or len(values) != n:
        raise DataError(f"{len(values)} {what} for {n} validation labels: nothing can be chosen")
    if not np.isfinite(values).all():
        raise DataError(f"the validation {what} are not all finite: training went astray")
