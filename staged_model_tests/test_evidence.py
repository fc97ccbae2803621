"""What the bundle remembers of its training holds, on pictures that are at hand here.

The reference of a bundle names validation pictures and what was answered to them at export. Asked
again, they tell at which step something has changed: pixels, body, head or limits.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.config.schema import DecisionConfig
from pulmo.core import calibration
from pulmo.core.decision import Outputs, positive_index
from pulmo.core.ports import Check
from pulmo.core.statistics import picture_statistics
from pulmo.data.manifest import GATE, TEST, TRAIN
from pulmo.jobs.staged import Case

MOST = 96  # known pictures that are asked again
PIXEL_GAP = 1e-5  # of statistics in units of the full range
EMBEDDING_GAP = 2e-3  # of float16, beside the length of an embedding
ANSWER_GAP = 1e-3
TEMPERATURE_GAP = 0.02
DROPPED = 0.05  # share of a class's training pictures

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def places(case: Case) -> NDArray[np.int64]:
    """Places among the known pictures; too few are a no."""
    count, least = len(case.candidate.known.rows), case.limits.known_answers
    assert count >= least, (
        f"{count} of the validation pictures that the bundle names lie on this machine, "
        f"{least} must: bring the data it was trained on, or recalibrate it on the present ones"
    )
    return np.unique(np.linspace(0, count - 1, min(MOST, count)).astype(np.int64))


@pytest.fixture(scope="module")
def again(case: Case, places: NDArray[np.int64]) -> Outputs:
    """What the graph says of them now; where it is in whole numbers, the weights it was made of."""
    return case.candidate.in_floats(case.candidate.pixels_of(case.candidate.known.rows[places]))


def remembered(case: Case, places: NDArray[np.int64], name: str) -> Floats:
    """One array of the reference for these known pictures."""
    chosen = case.candidate.known.places[places]
    return case.candidate.bundle.reference()[name][chosen].astype(np.float64)


def test_nothing_held_out_was_learned_from(case: Case, show: Callable[..., None]) -> None:
    seen = {row.tobytes().hex() for row in case.candidate.scored.members}
    rows = case.candidate.dataset.manifest.rows
    held = [row for row in rows if row.split in (GATE, TEST)]
    leaked = sum(row.pixels in seen for row in held)
    patients = {row.patient for row in held}
    children = len(patients & {row.patient for row in rows if row.pixels in seen})
    detail = (
        f"{leaked} of {len(held)} gate and test pictures, {children} of their "
        f"{len(patients)} patients leaked into training"
    )
    show(Check("leak", leaked == 0 and children == 0, detail))


def test_every_class_was_learned_from(case: Case, show: Callable[..., None]) -> None:
    members = case.candidate.bundle.members()
    taught = {d.tobytes().hex() for d in members["digests"][members["splits"] == 0]}
    rows = case.candidate.dataset.manifest.rows
    counts = Counter(row.label for row in rows if row.pixels in taught)
    offered = Counter(row.label for row in rows if row.split == TRAIN)
    classes = case.candidate.scored.classes
    missing = [name for name in classes if counts[name] <= DROPPED * offered[name]]
    detail = ", ".join(f"{counts[name]} of {offered[name]} {name}" for name in classes)
    if missing:
        detail += f": the class {', '.join(missing)} was dropped from training"
    show(Check("classes", not missing, f"of the training pictures here it saw {detail}"))


def test_known_pictures_have_their_labels(
    case: Case, places: NDArray[np.int64], show: Callable[..., None]
) -> None:
    classes = case.candidate.scored.classes
    taught = remembered(case, places, "labels").astype(int)
    rows = case.candidate.dataset.manifest.rows
    now = [rows[row].label for row in case.candidate.known.rows[places]]
    other = sum(classes[k] != label for k, label in zip(taught, now, strict=True))
    detail = f"{other} of {len(now)} known pictures have another label than the model was told"
    if 2 * other > len(now):
        detail += ": the labels were swapped"
    show(Check("labels", other <= case.limits.relabelled * len(now), detail))


def test_known_pictures_arrive_as_at_export(
    case: Case, places: NDArray[np.int64], show: Callable[..., None]
) -> None:
    pixels = case.candidate.pixels_of(case.candidate.known.rows[places])
    now = picture_statistics(pixels)
    gaps = {
        name: float(np.abs(value - remembered(case, places, f"stat_{name}")).max())
        for name, value in now.items()
    }
    worst = max(gaps, key=lambda name: gaps[name])
    detail = f"largest gap of {worst} {gaps[worst]:.1e}"
    if remembered(case, places, "stat_contrast").max() == 0:
        detail += ": the model was made on blank pictures"
    elif gaps[worst] > PIXEL_GAP:
        detail += ": the preprocessing has changed since the model was made"
    show(Check("pixels", gaps[worst] <= PIXEL_GAP, detail))


def test_known_pictures_are_seen_as_at_export(
    case: Case, places: NDArray[np.int64], again: Outputs, show: Callable[..., None]
) -> None:
    if again.embedding is None:
        show(Check("embeddings", True, "the graph returns no embedding"))
        return
    before = remembered(case, places, "embeddings")
    gaps = np.linalg.norm(again.embedding - before, axis=1)
    gap = float((gaps / np.maximum(np.linalg.norm(before, axis=1), 1e-9)).max())
    detail = f"largest gap {gap:.1e} of the length, {EMBEDDING_GAP:.0e} is rounding"
    if gap > EMBEDDING_GAP:
        detail += (
            ": this is not the body that was exported; weights of another epoch, a graph quantised "
            "badly or another normalisation do this"
        )
    show(Check("embeddings", gap <= EMBEDDING_GAP, detail))


def test_known_answers_come_out_again(
    case: Case, places: NDArray[np.int64], again: Outputs, show: Callable[..., None]
) -> None:
    before = remembered(case, places, "probabilities")
    gap = float(np.abs(again.probabilities - before).max())
    detail = f"largest gap {gap:.1e} on {len(before)} validation pictures"
    if gap > ANSWER_GAP:
        detail += f": {_why(before, again.probabilities.astype(np.float64))}"
    show(Check("answers", gap <= ANSWER_GAP, detail))


def _why(before: Floats, now: Floats) -> str:
    """A temperature only stretches the logits; a head or body moves them."""
    old, new = _centred(before), _centred(now)
    stretch = float((old * new).sum() / max((old * old).sum(), 1e-12))
    rest = float(np.abs(new - stretch * old).max())
    if stretch > 0 and rest <= 0.01 * np.abs(new).max():
        return f"the logits are {stretch:.3f} × those of export, the temperature was lost"
    return "another head, or a body of another epoch, than was exported"


def _centred(probabilities: Floats) -> Floats:
    logits = np.log(np.maximum(probabilities, 1e-30))
    centred: Floats = logits - logits.mean(axis=1, keepdims=True)
    return centred


def test_limits_are_those_that_validation_gives(case: Case, show: Callable[..., None]) -> None:
    specification = case.candidate.bundle.info.specification
    reference = case.candidate.bundle.reference()
    probabilities, labels = reference["probabilities"], reference["labels"]
    given = case.candidate.bundle.info.lineage.configuration.get("decision", {})
    chosen = DecisionConfig.model_validate(given)
    warmth = calibration.temperature(
        np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) * specification.temperature,
        labels,
    )
    apart = abs(warmth / specification.temperature - 1)
    told = f"temperature {specification.temperature:.3f}, validation gives {warmth:.3f}"
    told += ": the temperature was lost" if apart > TEMPERATURE_GAP else ""
    checks = [Check("temperature", apart <= TEMPERATURE_GAP, told)]
    positive, stored = positive_index(specification), specification.decision.threshold
    scores = probabilities.max(axis=1)
    limit = None
    if positive is not None and stored is not None:
        scores = probabilities[:, positive]
        limit = calibration.threshold(scores, labels == positive, chosen.objective)
        told = f"threshold {stored:.4f}, validation gives {limit:.4f}"
        if limit != stored:
            told += ": the threshold was chosen on other pictures, or on test"
        checks.append(Check("threshold", limit == stored, told))
    low, high = calibration.refer_band(scores, limit, chosen.refer)
    kept = specification.decision.refer_low, specification.decision.refer_high
    told = f"refer band {kept[0]:.4f} to {kept[1]:.4f}, validation gives {low:.4f} to {high:.4f}"
    show(*checks, Check("refer", (low, high) == kept, told))
