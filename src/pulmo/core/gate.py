"""Whether a candidate may follow the champion: rules on the gate split, each a check with a reason.

Every rule answers with a no, never with an exception, for a model that is wrong; what it cannot
show, it refuses.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pulmo.core import metrics
from pulmo.core.metrics import Labels, Probabilities
from pulmo.core.paired import difference, worse_decisions
from pulmo.core.ports import Check

ENOUGH = "enough_pictures"
NOT_WORSE = "not_worse_than_champion"
DECISIONS = "decides_no_worse_than_champion"
CANDIDATE_UNSEEN = "candidate_never_saw_gate"
CHAMPION_UNSEEN = "champion_never_saw_gate"


@dataclass(frozen=True)
class Limits:
    """What a candidate must reach; the fields mean what they mean in the gate's configuration."""

    floors: Mapping[str, float]
    margin: float
    confidence: float = 0.95
    resamples: int = 2000
    min_per_class: int = 20


@dataclass(frozen=True)
class GateSplit:
    """The n gate pictures: labels int64 [n] in the candidate's class order (-1: a class it does
    not know), their patients, their pixel SHA-256 in hex, and the positive class, if any.
    """

    labels: Labels
    patients: Sequence[str]
    digests: Sequence[str]
    positive: int | None


@dataclass(frozen=True)
class Scored:
    """What one model said of them: probabilities [n, K] and decided labels int64 [n], both in the
    order of `classes`, and the pixel SHA-256 uint8 [m, 32] of all that it learned from.
    """

    classes: tuple[str, ...]
    probabilities: Probabilities
    decided: Labels
    members: NDArray[np.uint8]


def judge(
    split: GateSplit, candidate: Scored, champion: Scored | None, limits: Limits
) -> list[Check]:
    """All checks of the gate; the candidate may pass only if every one has."""
    return [
        enough_pictures(split.labels, candidate.classes, limits.min_per_class),
        never_saw(CANDIDATE_UNSEEN, candidate.members, split.digests),
        *floors(split, candidate, limits),
        champion_unseen(champion, split.digests),
        not_worse(split, candidate, champion, limits),
        decides_no_worse(split, candidate, champion, limits),
    ]


def confidence_of_try(confidence: float, number: int, spending: Literal["none", "series"]) -> float:
    """The confidence that the `number`-th candidate (from 1) on one gate split needs.

    Who tries often enough is lucky once. With `series` the k-th try may err 2 / (k (k + 1)) times
    as often as the first; these shares sum to two, so that however many candidates come, the chance
    that any worse one passes stays below 2 (1 - confidence) (alpha spending, Demets and Lan 1994).
    """
    if spending == "none":
        return confidence
    return 1 - 2 * (1 - confidence) / (number * (number + 1))


def enough_pictures(labels: Labels, classes: Sequence[str], least: int) -> Check:
    """Every class needs `least` gate pictures, else no figure on them means much."""
    strangers = int(np.count_nonzero((labels < 0) | (labels >= len(classes))))
    if strangers:
        told = f"{strangers} gate pictures show a class that the candidate does not know"
        return Check(ENOUGH, False, told)
    counts = np.bincount(labels, minlength=len(classes))
    told = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    if counts.min() >= least:
        return Check(ENOUGH, True, f"gate pictures: {told}")
    rarest = classes[int(counts.argmin())]
    remedy = f"add pictures of {rarest}, of which the gate split has none"
    if counts.min():
        wanted = math.ceil(len(labels) * least / int(counts.min()))
        remedy = f"a gate split of about {wanted} pictures would hold as many of {rarest}"
    return Check(ENOUGH, False, f"gate pictures: {told}; every class needs {least}: {remedy}")


def floors(split: GateSplit, candidate: Scored, limits: Limits) -> list[Check]:
    """One check `floor_<metric>` for each floor: the metric is defined and reaches it."""
    names = {metric: f"floor_{metric}" for metric in limits.floors}
    if not names:
        return []
    if fault := _fault(split, candidate):
        return [Check(name, False, f"the candidate's {fault}") for name in names.values()]
    measured = metrics.evaluate_all(
        split.labels,
        candidate.probabilities,
        candidate.decided,
        split.patients,
        positive=split.positive,
        resamples=limits.resamples,
        confidence=limits.confidence,
    )
    checks = []
    for metric, name in names.items():
        floor = limits.floors[metric]
        if metric not in metrics.HIGHER_IS_BETTER:
            told = f"'{metric}' takes no floor; known: {', '.join(metrics.HIGHER_IS_BETTER)}"
            checks.append(Check(name, False, told))
            continue
        value, low, high = (getattr(measured[metric], part) for part in ("value", "low", "high"))
        if value is None:
            told = f"{metric} is undefined on the gate split: a class has no pictures"
            checks.append(Check(name, False, told))
            continue
        interval = "" if low is None else f" ({low:.4f} to {high:.4f})"
        told = f"{metric} {value:.4f}{interval} on {len(split.labels)} gate pictures"
        checks.append(Check(name, value >= floor, f"{told}, floor {floor:.4f}"))
    return checks


def slice_floors(
    split: GateSplit,
    candidate: Scored,
    slices: Mapping[str, NDArray[np.bool_]],
    floor: float,
    least: int,
) -> list[Check]:
    """One check for each class in each slice (bool [n] by name) that has `least` pictures of it:
    the share that is found reaches the floor. What a figure over all hides, a group does not.
    """
    checks = []
    for name, among in slices.items():
        for index, label in enumerate(candidate.classes):
            part = among & (split.labels == index)
            if not part.any() or part.sum() < least:
                continue
            found = float((candidate.decided[part] == index).mean())
            told = f"{found:.1%} of {part.sum()} {label} are found, floor {floor:.0%}"
            checks.append(Check(name, found >= floor, f"{name}: {told}"))
    return checks


def champion_unseen(champion: Scored | None, digests: Sequence[str]) -> Check:
    """As `never_saw`, for the champion; without one there is nothing to see."""
    if champion is None:
        return Check(CHAMPION_UNSEEN, True, "there is no champion")
    return never_saw(CHAMPION_UNSEEN, champion.members, digests)


def never_saw(name: str, members: NDArray[np.uint8], digests: Sequence[str]) -> Check:
    """No gate picture is among those that a model learned or was calibrated from."""
    seen = overlap(members, digests)
    if len(members) == 0:
        return Check(name, False, "the model names no picture that it learned from")
    if seen:
        told = f"{seen} of {len(digests)} gate pictures are among those it learned from"
        return Check(name, False, f"{told}: retrain on splits that leave them out")
    return Check(name, True, f"none of {len(digests)} gate pictures among its {len(members)}")


def overlap(members: NDArray[np.uint8], digests: Iterable[str]) -> int:
    """How many of the hex digests are among the members uint8 [m, 32]."""
    known = {row.tobytes().hex() for row in members}
    return sum(digest in known for digest in digests)


def not_worse(
    split: GateSplit, candidate: Scored, champion: Scored | None, limits: Limits
) -> Check:
    """Non-inferiority in AUROC, paired on the same pictures, with one-sided confidence.

    The lower bound of candidate minus champion must lie above minus the margin.
    """
    if champion is None:
        return Check(NOT_WORSE, True, "there is no champion: the first model needs only the floors")
    if told := _incomparable(split, candidate, champion):
        return Check(NOT_WORSE, False, told)
    order = [champion.classes.index(name) for name in candidate.classes]
    pair = (candidate.probabilities, champion.probabilities[:, order])
    found = difference(split.labels, split.patients, split.positive, *pair, limits.confidence)
    if found is None:
        told = "AUROC cannot be compared: a class has gate pictures of fewer than two patients"
        return Check(NOT_WORSE, False, told)
    apart, low = found
    told = (
        f"AUROC differs by {apart:+.4f}, at worst {low:+.4f} with {100 * limits.confidence:.4g} % "
        f"confidence; the margin is {-limits.margin:+.4f}"
    )
    if low > -limits.margin:
        return Check(NOT_WORSE, True, told)
    if apart <= -limits.margin:
        return Check(NOT_WORSE, False, f"{told}: the candidate is worse")
    room = limits.margin + min(apart, 0.0)
    wanted = math.ceil(len(split.labels) * ((apart - low) / room) ** 2)
    told += f": {len(split.labels)} gate pictures cannot bear the claim, about {wanted} would"
    return Check(NOT_WORSE, False, told)


def decides_no_worse(
    split: GateSplit, candidate: Scored, champion: Scored | None, limits: Limits
) -> Check:
    """The candidate's decisions are not shown to be wrong more often than the champion's.

    AUROC looks at the ranking alone: a model with a misplaced threshold ranks as well as before.
    """
    if champion is None:
        return Check(DECISIONS, True, "there is no champion")
    if told := _incomparable(split, candidate, champion):
        return Check(DECISIONS, False, told)
    order = np.array([candidate.classes.index(name) for name in champion.classes])
    right = candidate.decided == split.labels
    ours, theirs, chance = worse_decisions(
        right, order[champion.decided] == split.labels, split.patients
    )
    told = (
        f"{ours} pictures only the candidate decides rightly, {theirs} only the champion; where "
        f"neither is better such a balance or a worse one has p = {chance:.3f}"
    )
    return Check(DECISIONS, chance > 1 - limits.confidence, told)


def _incomparable(split: GateSplit, candidate: Scored, champion: Scored) -> str | None:
    """Why the two cannot be compared, None where they can."""
    if sorted(champion.classes) != sorted(candidate.classes):
        return "the champion knows other classes: register the candidate under another name"
    for who, model in (("candidate", candidate), ("champion", champion)):
        if fault := _fault(split, model):
            return f"the {who}'s {fault}"
    return None


def _fault(split: GateSplit, model: Scored) -> str | None:
    """Why nothing can be computed from what a model said, None where all can."""
    n, classes = len(split.labels), len(model.classes)
    if n == 0 or (split.labels < 0).any() or (split.labels >= classes).any():
        return "classes are not those of the gate split"
    if model.probabilities.shape != (n, classes) or model.decided.shape != (n,):
        return f"answers have the wrong shape {model.probabilities.shape}"
    if not np.isfinite(model.probabilities).all():
        return "probabilities are not all finite"
    return None
