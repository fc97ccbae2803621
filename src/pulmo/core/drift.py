"""Drift: whether a window of pictures is like a bundle's reference, and what is not.

Pictures are exchanged at random between window and reference, many times, and every feature is
measured each time. What the true window shows beyond nearly all of these is no chance: the p-value
of a permutation test (Phipson and Smyth 2010, "Permutation p-values should never be zero"), exact
for pictures that come one by one from the same source; pictures of one patient in the reference
change sides together, for they are alike. All features are measured under the same
exchanges, and each p-value is adjusted for the others by the smallest one of every exchange
(Westfall and Young 1993, "Resampling-based multiple testing"). So windows that are like the
reference raise an alarm in no more than a share `bound` of the cases, however many features there
are and however they hang together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pulmo.core.exchanges import exchanges, exchanges_within
from pulmo.core.neighbours import directions
from pulmo.core.randomness import permutation
from pulmo.core.sample import Floats, Sample
from pulmo.errors import DataError, ModelError

BOUND = 0.01
EXCHANGES = 1999  # at least; a dozen features share what is rarest, so a small bound needs more
LEAST, MOST = 20, 1000  # pictures of a window, and of a reference
EMBEDDING, SCORE, MIX = "embedding", "score", "class mix"
REFERRED, OUTLYING = "referred", "outliers"

Kind = Literal["embedding", "picture", "answer"]
Array = NDArray[np.float32]

_SEED = 0
_DIGITS = 6  # what is left of a statistic: float noise must not tell equal ones apart


@dataclass(frozen=True)
class Finding:
    """One feature: how far window and reference are apart, and how likely that is by chance.

    `distance` is the energy distance of the directions of embeddings (Székely and Rizzo 2013),
    Kolmogorov and Smirnov's of single values, or the total variation of shares. `p` is adjusted
    for all features. `usual` and `now` are the means (shares) of reference and window, None where
    there is no such number.
    """

    name: str
    kind: Kind
    distance: float
    p: float
    drifted: bool
    usual: float | None = None
    now: float | None = None


@dataclass(frozen=True)
class Report:
    """What was found in a window. `unknown` names features that one side knows nothing of."""

    pictures: int
    reference: int
    bound: float
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]

    @property
    def p(self) -> float:
        """The chance that a window like the reference looks at least so unlike it."""
        return min(one.p for one in self.findings)

    @property
    def alarm(self) -> bool:
        """Whether the window is unlike the reference."""
        return self.p <= self.bound

    @property
    def drifted(self) -> tuple[str, ...]:
        """The features that moved."""
        return tuple(one.name for one in self.findings if one.drifted)


@dataclass(frozen=True)
class _Measured:
    """A feature under all exchanges, the true window first: float64 [1 + exchanges]."""

    name: str
    kind: Kind
    values: Floats
    usual: float | None = None
    now: float | None = None


def judge(reference: Sample, window: Sample, bound: float = BOUND) -> Report:
    """Hold a window against the reference; the order of pictures plays no part.

    Of more than 1,000 pictures on either side 1,000 are looked at. Raises DataError for a window
    of fewer than 20 pictures and ModelError for such a reference.
    """
    if len(window) < LEAST:
        raise DataError(
            f"{len(window)} pictures cannot tell drift from chance: at least {LEAST} are needed, "
            "50 or more see smaller changes"
        )
    if len(reference) < LEAST:
        raise ModelError(
            f"the model's reference holds {len(reference)} validation pictures, at least {LEAST} "
            "are needed: train it on more data"
        )
    now, usual = _chosen(window), _chosen(reference)
    inside = exchanges(_groups(usual, now), len(now), _count(bound))
    findings = _findings(usual, now, inside, bound)
    names = {one.name for one in findings}
    return Report(
        pictures=len(now),
        reference=len(usual),
        bound=bound,
        findings=findings,
        unknown=tuple(name for name in _known(reference) | _known(window) if name not in names),
    )


def moved_within_classes(
    reference: Sample, window: Sample, bound: float = BOUND
) -> tuple[str, ...]:
    """Which features of the pictures moved beyond what another mix of classes explains.

    As `judge`, but pictures are exchanged only with those of the same answered class, and classes
    that one side does not show are left out.
    """
    now, usual = _chosen(window), _chosen(reference)
    both = np.intersect1d(now.decided, usual.decided)
    now = now.only(np.isin(now.decided, both))
    usual = usual.only(np.isin(usual.decided, both))
    if not len(now):
        return tuple(one for one in _known(window) if one != OUTLYING)
    groups = _groups(usual, now)
    inside = exchanges_within(groups, now.decided, usual.decided, _count(bound))
    found = _findings(usual, now, inside, bound)
    return tuple(one.name for one in found if one.drifted and one.kind != "answer")


def features(sample: Sample) -> dict[str, Floats]:
    """The single values that are watched, each [n]: picture statistics and the score."""
    return {**sample.statistics, SCORE: sample.score}


def _known(sample: Sample) -> dict[str, None]:
    names = [EMBEDDING] if sample.embeddings is not None else []
    names += sample.statistics
    return dict.fromkeys([*names, OUTLYING] if sample.outlying is not None else names)


def _chosen(sample: Sample) -> Sample:
    """At most 1,000 of the pictures, in an order that follows from what they are alone."""
    parts = [sample.probabilities, *(v[:, None] for v in sample.statistics.values())]
    parts += [] if sample.embeddings is None else [sample.embeddings.astype(np.float64)]
    parts += [] if sample.outlying is None else [sample.outlying[:, None].astype(np.float64)]
    rows = np.concatenate(parts, axis=1)
    order = np.array(sorted(range(len(rows)), key=lambda i: rows[i].tobytes()), dtype=np.int64)
    if len(order) > MOST:
        order = order[permutation(_SEED, 0, len(order))[:MOST]]
    return sample.only(order)


def _groups(usual: Sample, now: Sample) -> NDArray[np.int64]:
    """Whose picture each is, window first: of a window every picture is taken for its own patient,
    as nobody knows whose they are.
    """
    patients = np.arange(len(usual)) if usual.patients is None else usual.patients
    places = np.unique(patients, return_inverse=True)[1]
    return np.concatenate([np.arange(len(now)), len(now) + places]).astype(np.int64)


def _count(bound: float) -> int:
    return max(EXCHANGES, round(20 / bound) - 1)


def _findings(usual: Sample, now: Sample, inside: Array, bound: float) -> tuple[Finding, ...]:
    measured = list(_measure(usual, now, inside))
    adjusted = _adjusted(np.stack([one.values for one in measured]))
    return tuple(
        Finding(one.name, one.kind, float(one.values[0]), p, p <= bound, one.usual, one.now)
        for one, p in zip(measured, adjusted.tolist(), strict=True)
    )


def _measure(usual: Sample, now: Sample, inside: Array) -> Iterator[_Measured]:
    if now.embeddings is not None and usual.embeddings is not None:
        if now.embeddings.shape[1] != usual.embeddings.shape[1]:
            raise DataError("the embeddings are not of the length that the model's are")
        both = directions(np.concatenate([now.embeddings, usual.embeddings]))
        yield _Measured(EMBEDDING, "embedding", _energy(both, inside))
    for name in usual.statistics:
        if name in now.statistics:
            yield _single(name, "picture", usual.statistics[name], now.statistics[name], inside)
    yield _single(SCORE, "answer", usual.score, now.score, inside)
    classes = np.arange(usual.probabilities.shape[1])
    answered = np.concatenate([now.decided, usual.decided])
    yield _Measured(MIX, "answer", _variation(answered[:, None] == classes, inside))
    yield _share(REFERRED, usual.referred, now.referred, inside)
    if usual.outlying is not None and now.outlying is not None:
        yield _share(OUTLYING, usual.outlying, now.outlying, inside)


def _single(name: str, kind: Kind, usual: Floats, now: Floats, inside: Array) -> _Measured:
    values = _kolmogorov(np.concatenate([now, usual]), inside)
    return _Measured(name, kind, values, float(usual.mean()), float(now.mean()))


def _share(name: str, usual: NDArray[np.bool_], now: NDArray[np.bool_], inside: Array) -> _Measured:
    held = np.concatenate([now, usual])
    values = _variation(np.stack([held, ~held], axis=1), inside)
    return _Measured(name, "answer", values, float(usual.mean()), float(now.mean()))


def _sizes(inside: Array) -> tuple[int, int]:
    size = int(inside[:, 0].sum())
    return size, len(inside) - size


def _energy(both: Array, inside: Array) -> Floats:
    """Twice the mean distance across less those within either side, of directions [N, D].

    Distances are centred first: no small difference of large numbers is left to rounding.
    """
    m, n = _sizes(inside)
    squared = np.maximum(2 - 2 * (both @ both.T), 0)
    np.fill_diagonal(squared, 0)
    apart = np.sqrt(squared)
    centred = apart - apart.mean(axis=0) - apart.mean(axis=1, keepdims=True) + apart.mean()
    within = (centred @ inside * inside).sum(axis=0, dtype=np.float64)
    found: Floats = np.maximum(-within * (1 / m + 1 / n) ** 2, 0)
    return found


def _kolmogorov(values: Floats, inside: Array) -> Floats:
    """The largest gap between the two cumulative shares of values [N]."""
    m, n = _sizes(inside)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    counts = inside[order]
    np.cumsum(counts, axis=0, out=counts)
    counts -= (np.arange(1, m + n + 1) * (m / (m + n))).astype(np.float32)[:, None]
    np.abs(counts, out=counts)
    gaps: Floats = (counts if len(ends) == m + n else counts[ends]).max(axis=0).astype(np.float64)
    return gaps * ((m + n) / (m * n))


def _variation(held: NDArray[np.bool_], inside: Array) -> Floats:
    """Half the summed differences of shares, of memberships bool [N, K]."""
    m, n = _sizes(inside)
    counts = held.T.astype(np.float32) @ inside
    rest = held.sum(axis=0)[:, None] - counts
    gaps: Floats = np.abs(counts / m - rest / n).sum(axis=0, dtype=np.float64)
    return gaps / 2


def _adjusted(values: Floats) -> Floats:
    """p-values [F] of statistics [F, 1 + exchanges], each adjusted for all of them."""
    largest = values.max(axis=1, keepdims=True)
    even = np.round(values / np.where(largest > 0, largest, 1.0), _DIGITS)
    total = values.shape[1]
    shares = np.empty_like(even)
    for row, out in zip(even, shares, strict=True):
        out[:] = (total - np.searchsorted(np.sort(row), row, side="left")) / total
    smallest = np.sort(shares.min(axis=0))
    adjusted: Floats = np.searchsorted(smallest, shares[:, 0], side="right") / total
    return adjusted
