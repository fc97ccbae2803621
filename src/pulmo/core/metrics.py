"""How good a classifier is: AUROC, AUPRC, calibration error and their kin, each with an interval.

A metric is a `Statistic`: picture weights float64 [R, n] → values [R], NaN where it is undefined.
Weights of one give the metric itself, the counts of bootstrap resamples its distribution: one
definition serves both. Nothing that leaves this module is ever NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pulmo.core.bundle import Estimate

BINS = 15
HIGHER_IS_BETTER = (
    "auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1",
)  # fmt: skip

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating]  # [n, K]
Mask = NDArray[np.bool_]
Statistic = Callable[[Floats], Floats]

_CHUNK = 4_000_000  # weights held at once: 32 MB
_LEAST_PROBABILITY = 1e-7  # what float32 can still tell from nothing beside one


def auroc(labels: Labels, probabilities: Probabilities, positive: int | None) -> float | None:
    """Area under the ROC curve of int64 [n] and [n, K], ties counted half (Mann-Whitney U).

    `positive` None: the mean over all classes, one against the rest. None where a class is missing.
    """
    statistic = _over_classes(_auroc, labels, probabilities, positive)
    return _value(statistic, len(labels))


def values(
    labels: Labels, probabilities: Probabilities, decided: Labels, positive: int | None
) -> dict[str, float | None]:
    """Every metric of `statistics`, without intervals; None where it is undefined."""
    named = statistics(labels, probabilities, decided, positive)
    return {name: _value(statistic, len(labels)) for name, statistic in named.items()}


def evaluate_all(
    labels: Labels,
    probabilities: Probabilities,
    decided: Labels,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    positive: int | None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric with its interval: labels and decided int64 [n], probabilities [n, K].

    `groups` [n] names the patient of each picture; `positive` is the class that a two-class task
    looks for, None where no class is special.
    """
    named = statistics(labels, probabilities, decided, positive)
    return bootstrap(named, groups, resamples=resamples, confidence=confidence, seed=seed)


def statistics(
    labels: Labels, probabilities: Probabilities, decided: Labels, positive: int | None
) -> dict[str, Statistic]:
    """All metrics as functions of weights.

    With a positive class: AUROC, AUPRC (average precision), sensitivity, specificity, F1, ECE and
    Brier score are those of that class. Without: the first five are means over classes, one
    against the rest; ECE looks at the largest probability and whether its class is right; Brier
    sums the squared errors of all classes (Brier 1950). A class without pictures leaves undefined
    what needs it. Log loss is in nats.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    every = range(probabilities.shape[1])
    named = every if positive is None else (positive,)
    truth = np.eye(probabilities.shape[1])[labels]
    score, right = calibrated(labels, probabilities, positive)
    errors = (probabilities - truth) ** 2
    chosen = probabilities[np.arange(len(labels)), labels]
    recalls = [mean(decided == k, labels == k) for k in every]
    return {
        "auroc": _over_classes(_auroc, labels, probabilities, positive),
        "auprc": _over_classes(_average_precision, labels, probabilities, positive),
        "accuracy": mean(decided == labels),
        "balanced_accuracy": _average(recalls),
        "sensitivity": _average([recalls[k] for k in named]),
        "specificity": _average([mean(decided != k, labels != k) for k in named]),
        "f1": _average([_f1(decided == k, labels == k) for k in named]),
        "ece": _ece(score, right),
        "brier": mean(errors.sum(axis=1) if positive is None else errors[:, positive]),
        "log_loss": mean(-np.log(np.maximum(chosen, _LEAST_PROBABILITY))),
    }


def bootstrap(
    named: Mapping[str, Statistic],
    groups: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Estimate]:
    """Percentile intervals from resampled groups (Efron 1979; Field and Welsh 2007 for clusters).

    Resamples in which a metric is undefined are left out; with fewer than half left there is no
    interval. Resampling inflates a calibration error: an interval is stretched to hold its value.
    """
    drawn: dict[str, list[Floats]] = {name: [] for name in named}
    for weights in resample(groups, resamples, seed):
        for name, statistic in named.items():
            drawn[name].append(statistic(weights))
    tail = (1 - confidence) / 2
    return {
        name: _estimate(_value(statistic, len(groups)), np.concatenate(drawn[name]), tail)
        for name, statistic in named.items()
    }


def resample(
    groups: Sequence[str] | NDArray[np.str_], resamples: int, seed: int
) -> Iterator[Floats]:
    """Blocks of weights [r, n], `resamples` rows in all: as many groups, drawn with replacement."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // max(1, len(member)))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = rng.integers(0, len(names), size=(rows, len(names)))
        picks += np.arange(rows)[:, None] * len(names)
        counts = np.bincount(picks.ravel(), minlength=rows * len(names)).reshape(rows, -1)
        yield counts[:, member].astype(np.float64)


def mean(of: NDArray[np.generic], among: Mask | None = None) -> Statistic:
    """The weighted mean of values [n], over the pictures in `among` (all by default)."""
    part = np.ones(len(of)) if among is None else among.astype(np.float64)
    held = of.astype(np.float64) * part

    def statistic(weights: Floats) -> Floats:
        return _ratio(weights @ held, weights @ part)

    return statistic


def confusion(labels: Labels, decided: Labels, classes: int) -> Labels:
    """Counts int64 [K, K]: rows are the truth, columns the answer."""
    counts = np.bincount(labels * classes + decided, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def calibrated(
    labels: Labels, probabilities: Probabilities, positive: int | None
) -> tuple[Floats, Mask]:
    """The confidences that calibration looks at, and whether each came true: both [n]."""
    scores: Floats = np.asarray(probabilities, dtype=np.float64)
    if positive is None:
        return np.max(scores, axis=1), np.equal(np.argmax(scores, axis=1), labels)
    return scores[:, positive], labels == positive


@dataclass(frozen=True)
class Ranking:
    """Pictures in ascending order of a score; equal scores share one of T places."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    levels: Floats

    @classmethod
    def of(cls, scores: Floats) -> "Ranking":
        """The ranking of scores [n]."""
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        return cls(order, starts, ranked[starts])

    def tally(self, weights: Floats, among: Mask | None = None) -> Floats:
        """Weights [R, n] of the pictures in `among`, summed by place: [R, T]."""
        ranked = weights[:, self.order]
        if among is not None:
            ranked *= among[self.order]
        if len(self.starts) == len(self.order):
            return ranked
        return np.asarray(np.add.reduceat(ranked, self.starts, axis=1))


def bins_of(mass: Floats) -> NDArray[np.intp]:
    """The equal-mass bin of every place [R, T], by the middle of its mass."""
    total = np.maximum(mass.sum(axis=1, keepdims=True), 1)
    middle = np.cumsum(mass, axis=1) - mass / 2
    index: NDArray[np.intp] = np.minimum(middle * BINS / total, BINS - 1).astype(np.intp)
    return index


def _auroc(scores: Floats, hits: Mask) -> Statistic:
    ranking = Ranking.of(scores)

    def statistic(weights: Floats) -> Floats:
        up, down = ranking.tally(weights, hits), ranking.tally(weights, ~hits)
        below = np.cumsum(down, axis=1) - down / 2
        return _ratio((up * below).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))

    return statistic


def _average_precision(scores: Floats, hits: Mask) -> Statistic:
    ranking = Ranking.of(-scores)

    def statistic(weights: Floats) -> Floats:
        up, down = ranking.tally(weights, hits), ranking.tally(weights, ~hits)
        found = np.cumsum(up, axis=1)
        seen = found + np.cumsum(down, axis=1)
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        total = np.where(down.sum(axis=1) > 0, up.sum(axis=1), 0.0)
        return _ratio((up * precision).sum(axis=1), total)

    return statistic


def _ece(confidence: Floats, right: Mask) -> Statistic:
    """Naeini et al. 2015, with bins of equal mass; equal confidences always share a bin."""
    ranking = Ranking.of(confidence)

    def statistic(weights: Floats) -> Floats:
        mass = ranking.tally(weights)
        gap = ranking.tally(weights, right) - mass * ranking.levels
        index = bins_of(mass) + np.arange(len(mass))[:, None] * BINS
        gaps = np.bincount(index.ravel(), gap.ravel(), minlength=len(mass) * BINS)
        return _ratio(np.abs(gaps).reshape(-1, BINS).sum(axis=1), mass.sum(axis=1))

    return statistic


def _f1(answered: Mask, hits: Mask) -> Statistic:
    both, one, other = (part.astype(np.float64) for part in (answered & hits, answered, hits))

    def statistic(weights: Floats) -> Floats:
        present = weights @ other
        size = np.where(present > 0, present + weights @ one, 0.0)
        return _ratio(2 * (weights @ both), size)

    return statistic


def _over_classes(
    make: Callable[[Floats, Mask], Statistic],
    labels: Labels,
    probabilities: Probabilities,
    positive: int | None,
) -> Statistic:
    scores = np.asarray(probabilities, dtype=np.float64)
    named = range(scores.shape[1]) if positive is None else (positive,)
    return _average([make(scores[:, k], labels == k) for k in named])


def _average(parts: Sequence[Statistic]) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.mean([part(weights) for part in parts], axis=0))

    return statistic


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.full(above.shape, np.nan)
    return np.divide(above, below, out=ratio, where=below > 0)


def _value(statistic: Statistic, n: int) -> float | None:
    value = float(statistic(np.ones((1, n)))[0])
    return value if np.isfinite(value) else None


def _estimate(value: float | None, drawn: Floats, tail: float) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if value is None or 2 * len(known) < len(drawn):
        return Estimate(value=value)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
