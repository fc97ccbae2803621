"""Two models on the same pictures: how far apart they are, and how sure that is, by patient."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from pulmo.core.metrics import Floats, Labels, Mask, Probabilities


def difference(
    labels: Labels,
    patients: Sequence[str],
    positive: int | None,
    candidate: Probabilities,
    champion: Probabilities,
    confidence: float,
) -> tuple[float, float] | None:
    """AUROC of candidate minus champion and its one-sided lower bound; None where undefined.

    DeLong et al. 1988 gives the paired variances, summed by patient (Obuchowski 1997). Near an
    AUROC of 1 a symmetric interval is too short (a candidate worse by the margin would pass in
    one of ten cases, not one of twenty), so the bound is made from the two logit limits (Zou
    2007, "Toward using confidence intervals to compare correlations"), and only the few patients
    that the two rank otherwise say how uncertain it is: their effective number gives the degrees
    of freedom (Satterthwaite 1946; for clusters Carter et al. 2017).
    """
    pair = [auroc_parts(labels, p, positive) for p in (candidate, champion)]
    if pair[0] is None or pair[1] is None:
        return None
    (ours, our_parts), (theirs, their_parts) = pair[0], pair[1]
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    summed = np.stack([np.bincount(patient, parts) for parts in (our_parts, their_parts)])
    rarest = min(len(set(patient[labels == k])) for k in np.unique(labels))
    if rarest < 2:
        return None
    covariance = summed @ summed.T * rarest / (rarest - 1)
    z = _quantile(confidence, max(1.0, min(rarest, _effective(summed[0] - summed[1])) - 1))
    below = ours - _limit(ours, math.sqrt(covariance[0, 0]), rarest, -z)
    above = _limit(theirs, math.sqrt(covariance[1, 1]), rarest, z) - theirs
    scale = math.sqrt(covariance[0, 0] * covariance[1, 1])
    together = covariance[0, 1] / scale if scale > 0 else 0.0
    spread = below**2 + above**2 - 2 * together * below * above
    return ours - theirs, ours - theirs - math.sqrt(max(spread, 0.0))


def auroc_parts(
    labels: Labels, probabilities: Probabilities, positive: int | None
) -> tuple[float, Floats] | None:
    """AUROC and what each picture adds to its error: the variance is the sum of their squares.

    float64 [n], DeLong's placements less their mean. None where a class is missing.
    """
    scores: Floats = np.asarray(probabilities, dtype=np.float64)
    named = range(scores.shape[1]) if positive is None else (positive,)
    value, parts = 0.0, np.zeros(len(labels))
    for k in named:
        hits = labels == k
        up, down = int(hits.sum()), int((~hits).sum())
        if not up or not down:
            return None
        ascending, other = np.sort(scores[~hits, k]), np.sort(scores[hits, k])
        below = _rank(ascending, scores[hits, k]) / down
        above = 1 - _rank(other, scores[~hits, k]) / up
        area = float(below.mean())
        value += area / len(named)
        parts[hits] += (below - area) / up / len(named)
        parts[~hits] += (above - area) / down / len(named)
    return value, parts


def worse_decisions(ours: Mask, theirs: Mask, patients: Sequence[str]) -> tuple[int, int, float]:
    """How many of n pictures only the first model gets right, how many only the second, and how
    likely so bad a balance is where neither is better.

    McNemar 1947, one-sided and exact, with a fair coin for each patient instead of each picture:
    what a model gains and loses on one patient's pictures falls together.
    """
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    gains = np.bincount(patient, ours.astype(np.float64) - theirs).round().astype(np.int64)
    steps = np.abs(gains[gains != 0])
    chances = np.ones(1)  # of every balance from -total to total, in steps of one
    for step in steps:
        wider = np.zeros(len(chances) + 2 * int(step))
        wider[: len(chances)] += chances / 2
        wider[2 * int(step) :] += chances / 2
        chances = wider
    upto = int(gains.sum()) + int(steps.sum()) + 1
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return only_ours, only_theirs, float(chances[:upto].sum())


def _effective(shares: Floats) -> float:
    """How many equal patients would make the variance as uncertain as these do."""
    squares = shares**2
    fourth = float((squares**2).sum())
    return float(squares.sum()) ** 2 / fourth if fourth > 0 else math.inf


def _quantile(confidence: float, freedom: float) -> float:
    """Student's t by its first corrections to the normal (Fisher and Cornish 1960)."""
    z = NormalDist().inv_cdf(confidence)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + (z**3 + z) / (4 * freedom) + second / freedom**2


def _rank(ascending: Floats, scores: Floats) -> Floats:
    """How many of `ascending` lie below each score, ties counted half."""
    left = np.searchsorted(ascending, scores, side="left")
    right = np.searchsorted(ascending, scores, side="right")
    ranks: Floats = (left + right) / 2
    return ranks


def _limit(area: float, error: float, rarest: int, z: float) -> float:
    """A one-sided limit: by the logit, or Wilson's for the rarest class where nothing varies."""
    if 0 < area < 1 and error > 0:
        return 1 / (1 + math.exp(-math.log(area / (1 - area)) - z * error / (area * (1 - area))))
    wide = z * z / rarest
    middle = (area + wide / 2) / (1 + wide)
    return middle + math.copysign(math.sqrt(area * (1 - area) * wide + wide**2 / 4), z) / (1 + wide)
