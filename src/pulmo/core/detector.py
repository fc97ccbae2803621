"""An alarm for a stream of pictures, that may be looked at after every one of them, for ever.

Every feature of a picture gets a conformal p-value: its rank among validation pictures and all
pictures before it. While pictures come as they did in validation, these p-values are independent
and uniform (Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world"), so that
nobody who bets on them wins in the long run. For each bet, what was won since each picture is
summed up: the Shiryaev-Roberts statistic, whose mean grows by one a picture. The evidence is the
average over features and bets. It is expected to reach `spacing` only after `spacing` pictures or
more, and reaches it within the first n pictures with a probability of n / spacing at most,
whenever and however often one looks (Shin, Ramdas and Rinaldo 2024, "E-detectors").
"""

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

import numpy as np

from pulmo.core.drift import EMBEDDING, LEAST, features
from pulmo.core.neighbours import directions, distances
from pulmo.core.randomness import permutation, uniforms
from pulmo.core.sample import Floats, Mask, Sample
from pulmo.errors import DataError, ModelError

SPACING = 100_000
NEIGHBOURS = 5

_SEED = 0
_STRENGTHS = np.array([0.1, 0.4])  # a bet pays k p^(k - 1): the smaller, the bolder
_CEILING = 1e12  # of the evidence in units of `spacing`: what is sure need not grow


@dataclass(frozen=True)
class Alarm:
    """The picture, counted from one, at which there was enough evidence, and what it rests on:
    the share of each feature.
    """

    picture: int
    shares: dict[str, float]


class Detector:
    """What is usual, and the evidence against it so far.

    Half of the reference's patients give the embeddings that distances are measured to, the other
    half what is usual, so that the pictures that come are treated as these were. Raises ModelError
    where a half has fewer than 20 pictures.
    """

    def __init__(self, reference: Sample, spacing: float = SPACING) -> None:
        near = _half(reference)
        base, rest = reference.only(near), reference.only(~near)
        if min(len(base), len(rest)) < LEAST:
            raise ModelError(
                f"the model's reference holds {len(reference)} validation pictures, at least "
                f"{2 * LEAST} of several patients are needed: train it on more data"
            )
        self.spacing = spacing
        self.pictures = 0
        self.alarm: Alarm | None = None
        self._base = None if base.embeddings is None else directions(base.embeddings)
        self._usual = {name: sorted(v.tolist()) for name, v in self._values(rest).items()}
        self._evidence = np.zeros((len(self._usual), 3 * len(_STRENGTHS)))

    def take(self, window: Sample) -> Floats:
        """The evidence after each of n further pictures, in their order: float64 [n].

        What the pictures or the reference say nothing of is not betted on.
        """
        values = self._values(window)
        won = np.ones((len(window), *self._evidence.shape))
        for number, (name, usual) in enumerate(self._usual.items()):
            if name in values:
                won[:, number] = self._bets(self._ranks(number, usual, values[name]))
        return np.array([self._add(one) for one in won])

    def _add(self, won: Floats) -> float:
        self.pictures += 1
        grown = (self._evidence + 1) * won
        self._evidence = np.minimum(grown, _CEILING * self.spacing)
        evidence = float(self._evidence.mean())
        if self.alarm is None and evidence >= self.spacing:
            parts = self._evidence.mean(axis=1) / (len(self._usual) * evidence)
            named = dict(zip(self._usual, parts.tolist(), strict=True))
            ranked = sorted(named.items(), key=lambda one: -one[1])
            self.alarm = Alarm(self.pictures, dict(ranked))
        return evidence

    def _values(self, sample: Sample) -> dict[str, Floats]:
        found = features(sample)
        if self._base is not None and sample.embeddings is not None:
            if sample.embeddings.shape[1] != self._base.shape[1]:
                raise DataError("the embeddings are not of the length that the model's are")
            found[EMBEDDING] = distances(sample.embeddings, self._base, NEIGHBOURS)
        return found

    def _ranks(self, number: int, usual: list[float], values: Floats) -> Floats:
        """The share of earlier pictures that lie above each of `values` [n]; ties by lot."""
        places = np.arange(self.pictures, self.pictures + len(values))
        lots = uniforms(_SEED, 2 + number, places, 1)[:, 0].tolist()
        ranks = []
        for value, lot in zip(values.tolist(), lots, strict=True):
            below, upto = bisect_left(usual, value), bisect_right(usual, value)
            ranks.append((len(usual) - upto + lot * (upto - below + 1)) / (len(usual) + 1))
            insort(usual, value)
        return np.array(ranks)

    @staticmethod
    def _bets(ranks: Floats) -> Floats:
        """What bets on large, small and unusual values win, [n, 3 · strengths]."""
        ends = np.stack([ranks, 1 - ranks, 2 * np.minimum(ranks, 1 - ranks)], axis=1)
        safe = np.maximum(ends, np.finfo(np.float64).tiny)[:, :, None]
        won: Floats = _STRENGTHS * safe ** (_STRENGTHS - 1)
        return won.reshape(len(ranks), -1)


def _half(reference: Sample) -> Mask:
    """About half of the pictures, and all of a patient's or none: bool [n]."""
    own = np.arange(len(reference)) if reference.patients is None else reference.patients
    names, places = np.unique(own, return_inverse=True)
    chosen = np.zeros(len(names), dtype=np.bool_)
    chosen[permutation(_SEED, 2, len(names))[: len(names) // 2]] = True
    half: Mask = chosen[places]
    return half
