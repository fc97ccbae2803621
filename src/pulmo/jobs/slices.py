"""Metrics of named parts of the pictures: what a figure over all of them can hide."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Estimate
from pulmo.core.metrics import Labels, Mask, Probabilities
from pulmo.data.manifest import Row

MOST_VALUES = 12  # of one attribute; the rarer ones are shown together
OTHERS = "others"
SHOWN = ("auroc", "accuracy", "sensitivity", "specificity", "accepted")


@dataclass(frozen=True)
class Slice:
    """The pictures whose `attribute` has this `value`."""

    attribute: str
    value: str
    counts: dict[str, int]  # by class
    patients: int
    metrics: dict[str, Estimate]


def slices_of(row: Row) -> dict[str, str]:
    """What a manifest tells of a picture beside its label: attribute → value, empty if unknown."""
    return dict(row.slices)


def members(rows: Sequence[Row]) -> dict[str, dict[str, Mask]]:
    """Attribute → value → which of n rows have it, bool [n]; numbers are cut into quartiles.

    Pictures without a value belong to no slice; an attribute that is equal everywhere has none.
    """
    known = [slices_of(row) for row in rows]
    found = {}
    for attribute in sorted({name for one in known for name in one}):
        values = np.array([one.get(attribute, "") for one in known])
        named = _quartiles(values) or _words(values)
        if len(named) > 1 or (named and (values == "").any()):
            found[attribute] = named
    return found


def measure_slices(
    rows: Sequence[Row],
    classes: Sequence[str],
    labels: Labels,
    probabilities: Probabilities,
    decided: Labels,
    accepted: Mask,
    positive: int | None,
    config: EvaluateConfig,
    seed: int,
) -> tuple[Slice, ...]:
    """Every slice of n pictures with `SHOWN` metrics, None where they are undefined in it.

    A slice of one class alone has no AUROC of its own. Where pictures of other classes have no
    value at all (no germ where nobody is ill), it is ranked against those.
    """
    patients = np.array([row.patient for row in rows])
    draw = partial(
        metrics.bootstrap, resamples=config.resamples, confidence=config.confidence, seed=seed
    )

    def measured(among: Mask, rest: Mask) -> dict[str, Estimate]:
        alone = len(np.unique(labels[among])) == 1
        ranked = among | (rest & (labels != labels[among][0])) if alone else among
        ranks, named = (
            metrics.statistics(labels[m], probabilities[m], decided[m], positive)
            for m in (ranked, among)
        )
        named["accepted"] = metrics.mean(accepted[among])
        own = draw({name: named[name] for name in SHOWN[1:]}, patients[among])
        return {**draw({"auroc": ranks["auroc"]}, patients[ranked]), **own}

    found = []
    for attribute, values in members(rows).items():
        unknown = ~np.logical_or.reduce(list(values.values()))
        for value, among in values.items():
            counted = np.bincount(labels[among], minlength=len(classes)).tolist()
            counts = dict(zip(classes, counted, strict=True))
            people = len(set(patients[among].tolist()))
            found.append(Slice(attribute, value, counts, people, measured(among, unknown)))
    return tuple(found)


def _quartiles(values: NDArray[np.str_]) -> dict[str, Mask]:
    """Ranges of about equal size where all that is said are numbers, and many; else nothing."""
    said = values != ""
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return {}
    if not all(map(isfinite, numbers[said])) or len(np.unique(numbers[said])) <= MOST_VALUES:
        return {}
    edges = np.unique(np.quantile(numbers[said], (0, 0.25, 0.5, 0.75, 1), method="inverted_cdf"))
    bins = np.searchsorted(edges[1:-1], numbers, side="left")
    found = {}
    for i in range(len(edges) - 1):
        among = said & (bins == i)
        part = numbers[among]
        found[f"{part.min():g} to {part.max():g}"] = among
    return found


def _words(values: NDArray[np.str_]) -> dict[str, Mask]:
    names, counts = np.unique(values[values != ""], return_counts=True)
    common = sorted(names[np.argsort(-counts, kind="stable")][:MOST_VALUES].tolist())
    found = {name: values == name for name in common}
    if len(common) < len(names):
        found[OTHERS] = (values != "") & ~np.isin(values, common)
    return found
