"""The points of ROC, precision-recall and reliability curves, few enough to travel in a bundle."""

from collections.abc import Sequence

import numpy as np

from pulmo.core.metrics import (
    BINS,
    Floats,
    Labels,
    Mask,
    Probabilities,
    Ranking,
    bins_of,
    calibrated,
)

POINTS = 200

Curves = dict[str, dict[str, list[float]]]


def curves(labels: Labels, probabilities: Probabilities, positive: int | None) -> Curves:
    """`roc` (fpr, tpr), `pr` (recall, precision) and `reliability` (confidence, frequency, count).

    At most 200 points each, six decimals. Without a positive class `roc` and `pr` are means over
    the classes present, on one grid (Fawcett 2006, vertical averaging). A curve that needs a
    class without pictures is left out.
    """
    scores: Floats = np.asarray(probabilities, dtype=np.float64)
    named = range(scores.shape[1]) if positive is None else (positive,)
    defined = [k for k in named if 0 < np.count_nonzero(labels == k) < len(labels)]
    drawn = [_roc_and_pr(scores[:, k], labels == k) for k in defined]
    found: Curves = {}
    for name, (x, y), position in (("roc", ("fpr", "tpr"), 0), ("pr", ("recall", "precision"), 1)):
        if drawn:
            points = _merge([pair[position] for pair in drawn])
            found[name] = {x: _listed(points[0]), y: _listed(points[1])}
    found["reliability"] = _reliability(labels, scores, positive)
    return found


def _roc_and_pr(scores: Floats, hits: Mask) -> tuple[Floats, Floats]:
    """The points of both curves of one class, each float64 [2, T + 1], from the top score down."""
    ranking = Ranking.of(-scores)
    ones = np.ones((1, len(scores)))
    found = np.cumsum(np.r_[0.0, ranking.tally(ones, hits)[0]])
    false = np.cumsum(np.r_[0.0, ranking.tally(ones, ~hits)[0]])
    precision = found[1:] / (found + false)[1:]
    roc = np.stack([false / false[-1], found / found[-1]])
    return roc, np.stack([found / found[-1], np.r_[precision[0], precision]])


def _merge(drawn: Sequence[Floats]) -> Floats:
    """One curve thinned, or the mean of several on a grid: float64 [2, ≤ 200]."""
    if len(drawn) == 1:
        points = drawn[0]
        keep = np.unique(np.linspace(0, points.shape[1] - 1, POINTS).round().astype(int))
        thinned: Floats = points[:, keep]
        return thinned
    grid = np.linspace(0, 1, 101)
    return np.stack([grid, np.mean([np.interp(grid, x, y) for x, y in drawn], axis=0)])


def _reliability(
    labels: Labels, probabilities: Floats, positive: int | None
) -> dict[str, list[float]]:
    score, right = calibrated(labels, probabilities, positive)
    ranking = Ranking.of(score)
    ones = np.ones((1, len(labels)))
    mass, hits = ranking.tally(ones), ranking.tally(ones, right)[0]
    index = bins_of(mass)[0]
    count: Floats = np.bincount(index, mass[0], BINS).astype(np.float64)
    held = count > 0
    level = np.bincount(index, mass[0] * ranking.levels, BINS)[held] / count[held]
    frequency = np.bincount(index, hits, BINS)[held] / count[held]
    return {
        "confidence": _listed(level),
        "frequency": _listed(frequency),
        "count": _listed(count[held]),
    }


def _listed(points: Floats) -> list[float]:
    return [round(float(point), 6) for point in points]
