"""It behaves: small changes leave answers alone, larger ones move them the way they must."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from pulmo.core.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from pulmo.core.decision import Answer, Decider, labels_of
from pulmo.core.ports import Check
from pulmo.core.preprocess import Pixels
from pulmo.jobs.staged import Case

PICTURES = 200
DAMAGED = 64
NONSENSE = 16
DAMAGES = ("noise", "blur", "contrast")
GREYS = ((0.5, 0), (0.7, 0), (1.4, 0), (2.0, 0), (1.0, -64), (1.0, 64), (1.4, -128), (-1.0, 255))


@pytest.fixture(scope="module")
def answers(case: Case) -> Callable[[Pixels], list[Answer]]:
    """What the candidate would answer to pixels."""
    bundle = case.candidate.bundle
    decider = Decider(bundle.info.specification, bundle.reference().get("embeddings"))
    return lambda pixels: decider.answers(case.candidate.engine(pixels))


def test_small_changes_do_not_change_answers(case: Case, show: Callable[..., None]) -> None:
    specification = case.candidate.bundle.info.specification
    places = case.some(PICTURES)
    pixels = case.candidate.pixels[places]
    expected = labels_of(case.candidate.outputs.probabilities[places], specification)
    checks = []
    for name, changed in _small_changes(pixels, mirror=case.terms.mirror):
        answered = labels_of(case.candidate.engine(changed).probabilities, specification)
        share = float((answered == expected).mean())
        detail = f"{name}: {share:.1%} of {len(pixels)} answers stay"
        checks.append(Check(name, share >= case.limits.stability, detail))
    show(*checks, Check("limit", True, f"{case.limits.stability:.0%} must"))


def _small_changes(pixels: Pixels, *, mirror: bool) -> Iterator[tuple[str, Pixels]]:
    for factor in (0.95, 1.05):
        yield f"brightness × {factor}", _grey(pixels, factor, 0)
    shift = max(1, pixels.shape[-1] // 80)
    aside = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (shift, 0)), mode="edge")
    yield f"{shift} px aside", np.ascontiguousarray(aside[..., :-shift])
    above = np.pad(pixels, ((0, 0), (0, 0), (0, shift), (0, 0)), mode="edge")
    yield f"{shift} px up", np.ascontiguousarray(above[..., shift:, :])
    yield "JPEG quality 90", np.stack([_recompressed(picture) for picture in pixels])
    if mirror:
        yield "mirror", np.ascontiguousarray(pixels[..., ::-1])


def _grey(pixels: Pixels, factor: float, offset: float) -> Pixels:
    changed: Pixels = np.rint(np.clip(pixels * np.float32(factor) + offset, 0, 255)).astype(
        np.uint8
    )
    return changed


def _recompressed(picture: Pixels) -> Pixels:
    grey = picture.shape[0] == 1
    image = Image.fromarray(picture[0] if grey else picture.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    again = np.asarray(Image.open(buffer))
    return again[None] if grey else again.transpose(2, 0, 1)


def test_a_mixture_with_another_class_lowers_the_probability(
    case: Case, show: Callable[..., None]
) -> None:
    # Half of a picture and half of one of another class shows less of the first.
    labels, pixels = case.split.labels, case.candidate.pixels
    said = case.candidate.outputs.probabilities
    rng = np.random.default_rng(0)
    chosen = case.some(PICTURES)
    chosen = chosen[case.candidate.scored.decided[chosen] == labels[chosen]]
    assert len(chosen), "no gate picture is answered rightly: the class probabilities mean nothing"
    others = [int(rng.choice(np.flatnonzero(labels != labels[i]))) for i in chosen]
    mixed = (pixels[chosen].astype(np.uint16) + pixels[others] + 1) // 2
    after = case.candidate.engine(mixed.astype(np.uint8)).probabilities
    fell = after[range(len(chosen)), labels[chosen]] < said[chosen, labels[chosen]]
    share, limit = float(fell.mean()), case.limits.direction
    detail = f"{share:.1%} of {len(chosen)} fall, {limit:.0%} must"
    show(Check("mixture", share >= limit, detail))


def test_heavier_damage_leaves_more_to_humans(
    case: Case, answers: Callable[[Pixels], list[Answer]], show: Callable[..., None]
) -> None:
    # Confidence need not fall on damaged pictures; that a human sees more of them is a promise.
    pixels = case.candidate.pixels[case.some(DAMAGED)]
    before = float(np.mean([a.decision == "refer" for a in answers(pixels)]))
    told, after = [], []
    for name in DAMAGES:
        damaged = _corrupted(pixels, name, SEVERITIES[-1])
        after.append(float(np.mean([a.decision == "refer" for a in answers(damaged)])))
        told.append(f"{name} {after[-1]:.0%}")
    rise, limit = float(np.mean(after)) - before, case.limits.more_referred
    detail = f"left to humans: {before:.0%} as they are, {', '.join(told)}; {limit:+.0%} is needed"
    show(Check("referred", rise >= limit, detail))


def test_damaged_pictures_are_still_told_apart(case: Case, show: Callable[..., None]) -> None:
    places, severity = case.some(DAMAGED), case.limits.robustness_severity
    pixels = case.candidate.pixels[places]
    found = {name: case.auroc(places, _corrupted(pixels, name, severity)) for name in CORRUPTIONS}
    mean, floor = float(np.mean(list(found.values()))), case.limits.robustness_floor
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    detail = f"severity {severity}: mean AUROC {mean:.3f}, floor {floor:.3f}; {told}"
    show(Check("robustness", mean >= floor, detail))


def _corrupted(pixels: Pixels, name: str, severity: int) -> Pixels:
    return np.stack([corrupt(one, name, severity, key) for key, one in enumerate(pixels)])


def test_no_other_scale_of_grey_is_answered_better(case: Case, show: Callable[..., None]) -> None:
    # A normalisation that is not that of training shows itself: some other scale would undo it.
    places = case.some(PICTURES)
    pixels = case.candidate.pixels[places]
    plain = case.auroc(places, pixels)
    found = {
        f"× {factor} {offset:+d}": case.auroc(places, _grey(pixels, factor, offset))
        for factor, offset in GREYS
    }
    best = max(found, key=lambda name: found[name])
    gain, limit = found[best] - plain, case.limits.grey_gain
    detail = f"AUROC {plain:.3f}, {found[best]:.3f} for greys {best}; {limit:.2f} more is allowed"
    if gain > limit:
        detail += ": the normalisation or the preprocessing is not that of training"
    show(Check("grey", gain <= limit, detail))


def test_nonsense_gets_no_label(
    case: Case, answers: Callable[[Pixels], list[Answer]], show: Callable[..., None]
) -> None:
    shape = (NONSENSE, *case.candidate.pixels.shape[1:])
    drawn = {
        "noise": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        "black": np.zeros(shape, dtype=np.uint8),
        "white": np.full(shape, 255, dtype=np.uint8),
    }
    refused = {
        kind: sum(a.label is None for a in answers(pixels)) for kind, pixels in drawn.items()
    }
    told = ", ".join(f"{count} of {NONSENSE} {kind}" for kind, count in refused.items())
    share = sum(refused.values()) / (NONSENSE * len(drawn))
    detail = f"without a label: {told}; {case.limits.nonsense:.0%} of all must be"
    show(Check("nonsense", share >= case.limits.nonsense, detail))


def test_real_pictures_get_a_label(
    case: Case, answers: Callable[[Pixels], list[Answer]], show: Callable[..., None]
) -> None:
    places = case.some(PICTURES)
    share = float(np.mean([a.label is None for a in answers(case.candidate.pixels[places])]))
    limit = case.limits.false_alarms
    detail = f"{share:.1%} of {len(places)} gate pictures get no label, at most {limit:.0%} may"
    show(Check("alarms", share <= limit, detail))


def test_the_drift_reference_is_whole(case: Case, show: Callable[..., None]) -> None:
    bundle = case.candidate.bundle
    reference = bundle.reference()
    lengths = {name: len(values) for name, values in reference.items()}
    needed = {"embeddings", "labels", "probabilities", "stat_brightness", "stat_contrast"}
    assert needed <= reference.keys()
    assert len(set(lengths.values())) == 1
    assert all(np.isfinite(values).all() for values in reference.values())
    Decider(bundle.info.specification, reference["embeddings"])  # raises where it is another's
    blank = float((reference["stat_contrast"] == 0).mean())
    detail = f"{lengths['labels']} validation pictures, {blank:.0%} of them blank"
    show(Check("reference", blank < 0.5, detail))
