"""How the pictures of a data set look as a whole, kept to hold later ones against it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from pulmo.data.looks import Look
from pulmo.data.manifest import EXCLUDED, Manifest

MEASURES = ("width", "height", "brightness", "contrast", "sharpness")

_POINTS = 101


class Reference(BaseModel):
    """Shares of classes and of kinds of files, and 101 quantiles of every measure, least first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    classes: dict[str, float]
    modes: dict[str, float]
    quantiles: dict[str, list[float]]


def measure(manifest: Manifest, looks: Mapping[str, Look]) -> Reference:
    """The reference that a data set gives; excluded pictures do not count."""
    rows = [row for row in manifest.rows if row.split != EXCLUDED and row.path in looks]
    quantiles = {}
    for name in MEASURES if rows else ():
        values = [getattr(looks[row.path], name) for row in rows]
        found = np.quantile(values, np.linspace(0, 1, _POINTS), method="inverted_cdf")
        quantiles[name] = [float(value) for value in found]
    return Reference(
        digest=manifest.digest,
        classes=_shares([row.label for row in rows]),
        modes=_shares([looks[row.path].mode for row in rows]),
        quantiles=quantiles,
    )


def distances(before: Reference, now: Reference) -> dict[str, float]:
    """How far two data sets are apart, 0 to 1: largest difference of shares, and of cumulative
    distributions (Kolmogorov and Smirnov's distance, to a hundredth) for every measure.
    """
    found = {
        "classes": _apart(before.classes, now.classes),
        "kinds of files": _apart(before.modes, now.modes),
    }
    for name in MEASURES:
        if name in before.quantiles and name in now.quantiles:
            found[name] = _kolmogorov(before.quantiles[name], now.quantiles[name])
    return found


def _shares(words: Sequence[str]) -> dict[str, float]:
    return {word: count / len(words) for word, count in sorted(Counter(words).items())}


def _apart(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return max((abs(one.get(k, 0) - other.get(k, 0)) for k in {*one, *other}), default=0.0)


def _kolmogorov(one: Sequence[float], other: Sequence[float]) -> float:
    points = np.unique(np.concatenate([one, other]))
    shares = [np.searchsorted(values, points, "right") / _POINTS for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())
