"""How right a model probably is on pictures whose truth nobody has told."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pulmo.core.drift import EMBEDDING, Report, moved_within_classes
from pulmo.core.sample import Floats, Sample
from pulmo.errors import ModelError

CONFIDENCE = 0.95
RESAMPLES = 200

_ROUNDS = 100  # of expectation and maximisation; it converges in far fewer
_LEAST = 1e-6  # of a share and of a probability


@dataclass(frozen=True)
class Expected:
    """The accuracy that is expected of the model's answers to a window, with its interval.

    `reference` is the accuracy on validation pictures and `mix` the shares [K] that the classes
    seem to have now. `doubt` says why none of it is to be believed; None where nothing speaks
    against it.
    """

    accuracy: float
    low: float
    high: float
    reference: float
    mix: tuple[float, ...]
    doubt: str | None


def expect(reference: Sample, window: Sample, report: Report) -> Expected:
    """What accuracy to expect of a window [m], of which `report` says how it differs from the
    reference [n].

    The mix of classes is found from the probabilities alone (Saerens, Latinne and Decaestecker
    2002, "Adjusting the outputs of a classifier to new a priori probabilities") and the
    probabilities are brought to it; the accuracy is that of the reference plus what the mean
    confidence in the decided classes has gained since (Guillory et al. 2021, "Predicting with
    confidence on unseen distributions"). Both hold while the pictures of a class look as they did
    and only the mix moves: where the pictures themselves moved, `doubt` says so. The interval
    comes from resampled patients and pictures. Raises ModelError without labels.
    """
    if reference.labels is None:
        raise ModelError("the model's reference holds no labels: nothing can be expected")
    generator = np.random.Generator(np.random.Philox(key=[0, 3]))
    old = _weights(generator, _patients(reference))
    new = _weights(generator, np.arange(len(window)))
    right = (reference.decided == reference.labels).astype(np.float64)
    shares = _share(old @ np.eye(reference.probabilities.shape[1])[reference.labels])
    before = old @ _decided(reference.probabilities, reference)
    mix = _mix(window.probabilities, new, shares)
    after = np.array(
        [
            row @ _decided(_moved(window.probabilities, ratio), window)
            for row, ratio in zip(new, mix / shares, strict=True)
        ]
    )
    found = np.clip(old @ right + after - before, 0, 1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found[1:], [tail, 1 - tail])
    accuracy = float(found[0])
    return Expected(
        accuracy=accuracy,
        low=min(float(low), accuracy),
        high=max(float(high), accuracy),
        reference=float(right.mean()),
        mix=tuple(mix[0].tolist()),
        doubt=_doubt(reference, window, report),
    )


def _doubt(reference: Sample, window: Sample, report: Report) -> str | None:
    if EMBEDDING not in {one.name for one in report.findings}:
        return "nothing is known of the pictures but the answers: they may have changed unseen"
    moved = moved_within_classes(reference, window, report.bound) if report.alarm else ()
    if moved:
        return (
            f"the pictures of one class have changed ({', '.join(moved)}): confidence says "
            "nothing about pictures of a kind that the model was not validated on"
        )
    return None


def _patients(sample: Sample) -> NDArray[np.int64]:
    return np.arange(len(sample)) if sample.patients is None else sample.patients


def _weights(generator: np.random.Generator, groups: NDArray[np.int64]) -> Floats:
    """Weights that sum to one, [1 + RESAMPLES, n]: of all pictures, then of drawn groups."""
    names, places = np.unique(groups, return_inverse=True)
    even = np.full(len(names), 1 / len(names))
    counts = generator.multinomial(len(names), even, size=RESAMPLES)
    weights = np.concatenate([np.ones((1, len(groups))), counts[:, places]]).astype(np.float64)
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _share(counts: Floats) -> Floats:
    some = np.maximum(counts, _LEAST)
    shares: Floats = some / some.sum(axis=1, keepdims=True)
    return shares


def _decided(probabilities: Floats, sample: Sample) -> Floats:
    """The probability of the class that was decided, [n]."""
    found: Floats = np.take_along_axis(probabilities, sample.decided[:, None], axis=1)[:, 0]
    return found


def _moved(probabilities: Floats, ratio: Floats) -> Floats:
    """Probabilities [m, K] under other shares of the classes, `ratio` [K] times the old ones."""
    weighed = np.maximum(probabilities, _LEAST) * ratio
    moved: Floats = weighed / weighed.sum(axis=1, keepdims=True)
    return moved


def _mix(probabilities: Floats, weights: Floats, shares: Floats) -> Floats:
    """The likeliest shares of the classes [R, K] under weights [R, m], from `shares` [R, K]."""
    mix = shares
    safe = np.maximum(probabilities, _LEAST)
    for _ in range(_ROUNDS):
        ratio = mix / shares
        total = safe @ ratio.T  # [m, R]
        mix = _share(((weights.T / total).T @ safe) * ratio)
    return mix
