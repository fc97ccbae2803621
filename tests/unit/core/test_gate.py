"""The gate: what it lets through, what it refuses, and what it says."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.core import gate
from pulmo.core.bundle import sha256
from pulmo.core.gate import GateSplit, Limits, Scored
from pulmo.core.paired import difference
from pulmo.core.ports import Check

Floats = NDArray[np.float64]

CLASSES = ("NORMAL", "PNEUMONIA")
LIMITS = Limits(floors={"auroc": 0.9, "balanced_accuracy": 0.8}, margin=0.02, resamples=200)
DIGESTS = [sha256(str(i).encode()) for i in range(2000)]
MEMBERS = np.frombuffer(bytes.fromhex(sha256(b"seen in training")), dtype=np.uint8)[None]


def _split(labels: NDArray[np.int64], per_patient: int = 1) -> GateSplit:
    patients = [str(i // per_patient) for i in range(len(labels))]
    return GateSplit(labels, patients, DIGESTS[: len(labels)], 1)


def _labels(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return (rng.random(n) < 0.74).astype(np.int64)


def _apart(area: float) -> float:
    """The distance of two normal distributions whose AUROC is `area`."""
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def _scored(scores: Floats, members: NDArray[np.uint8] = MEMBERS) -> Scored:
    positive = 1 / (1 + np.exp(-scores))
    probabilities = np.stack([1 - positive, positive], axis=1)
    return Scored(CLASSES, probabilities, (positive > 0.5).astype(np.int64), members)


def _model(labels: NDArray[np.int64], area: float, rng: np.random.Generator) -> Floats:
    return rng.normal(size=len(labels)) + _apart(area) * (labels - 0.5)


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_good_first_model_passes_every_check() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(300, rng)
    checks = gate.judge(_split(labels), _scored(_model(labels, 0.98, rng)), None, LIMITS)
    assert [check.name for check in checks] == [
        "enough_pictures",
        "candidate_never_saw_gate",
        "floor_auroc",
        "floor_balanced_accuracy",
        "champion_never_saw_gate",
        "not_worse_than_champion",
        "decides_no_worse_than_champion",
    ]
    assert all(check.passed for check in checks), checks
    assert "there is no champion" in checks[-1].detail


def test_an_equal_model_follows_and_a_bad_one_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(600, rng)
    champion = _scored(_model(labels, 0.99, rng))
    equal = _by_name(
        gate.judge(_split(labels), _scored(_model(labels, 0.99, rng)), champion, LIMITS)
    )
    assert all(check.passed for check in equal.values()), equal
    bad = _by_name(gate.judge(_split(labels), _scored(_model(labels, 0.85, rng)), champion, LIMITS))
    assert not bad["floor_auroc"].passed
    assert not bad["not_worse_than_champion"].passed
    assert "the candidate is worse" in bad["not_worse_than_champion"].detail


def _promoted(champion: float, candidate: float, n: int, tries: int, per_patient: int) -> float:
    rng = np.random.default_rng(7)
    passed = 0
    for _ in range(tries):
        patients = np.arange(n) // per_patient
        labels = _labels(n, rng)[patients]
        shared = rng.normal(size=n)
        pair = []
        for area in (champion, candidate):
            own = 0.6 * shared + 0.8 * rng.normal(size=n)
            pair.append(_scored(own + _apart(area) * (labels - 0.5)))
        passed += gate.not_worse(_split(labels, per_patient), pair[1], pair[0], LIMITS).passed
    return passed / tries


@pytest.mark.parametrize("champion", [0.99, 0.97])
def test_models_worse_by_the_margin_are_promoted_in_one_of_twenty_cases(champion: float) -> None:
    assert _promoted(champion, champion - LIMITS.margin, 500, 600, 1) <= 0.075


def test_equal_models_are_mostly_promoted_at_five_hundred_pictures() -> None:
    assert _promoted(0.98, 0.98, 500, 200, 1) >= 0.7


def test_several_pictures_a_patient_do_not_make_the_gate_rash() -> None:
    assert _promoted(0.98, 0.96, 500, 300, 4) <= 0.09


def test_too_few_pictures_are_refused_with_the_number_that_would_do() -> None:
    labels = np.array([0] * 8 + [1] * 8)
    scored = _scored(np.where(labels == 1, 2.0, -2.0))
    checks = _by_name(gate.judge(_split(labels), scored, scored, LIMITS))
    assert not checks["enough_pictures"].passed
    assert "NORMAL 8, PNEUMONIA 8" in checks["enough_pictures"].detail
    assert "about 40 pictures" in checks["enough_pictures"].detail
    told = checks["not_worse_than_champion"]
    assert not told.passed
    assert "16 gate pictures cannot bear the claim, about " in told.detail


def test_the_number_that_would_do_does() -> None:
    rng = np.random.default_rng(3)
    labels = _labels(60, rng)
    shared = _model(labels, 0.95, rng)
    one, other = (_scored(shared + 0.3 * rng.normal(size=60)) for _ in range(2))
    split = _split(labels)
    pair = one.probabilities, other.probabilities
    found = difference(labels, split.patients, 1, *pair, 0.95)
    assert found is not None
    check = gate.not_worse(split, one, other, LIMITS)
    assert not check.passed
    wanted = int(check.detail.rsplit("about ", 1)[1].split()[0])
    apart, low = found
    assert wanted == math.ceil(60 * ((apart - low) / (0.02 + min(apart, 0))) ** 2)
    assert wanted > 60


def test_a_class_without_pictures_is_refused_in_words() -> None:
    labels = np.ones(30, dtype=np.int64)
    scored = _scored(np.linspace(-1, 3, 30))
    checks = _by_name(gate.judge(_split(labels), scored, scored, LIMITS))
    assert "add pictures of NORMAL" in checks["enough_pictures"].detail
    assert "undefined" in checks["floor_auroc"].detail
    assert "fewer than two patients" in checks["not_worse_than_champion"].detail
    assert not any(checks[name].passed for name in ("floor_auroc", "not_worse_than_champion"))


def test_a_class_of_one_patient_bears_no_comparison() -> None:
    labels = np.array([0, 0] + [1] * 30)
    split = GateSplit(labels, ["same", "same", *map(str, range(30))], DIGESTS[:32], 1)
    scored = _scored(np.linspace(-1, 3, 32))
    assert not gate.not_worse(split, scored, scored, LIMITS).passed


def test_a_class_that_the_candidate_does_not_know_is_refused() -> None:
    labels = np.array([0, 1, -1] * 20)
    scored = _scored(np.linspace(-1, 3, 60))
    checks = _by_name(gate.judge(_split(labels), scored, scored, LIMITS))
    assert "20 gate pictures show a class" in checks["enough_pictures"].detail
    failing = {name for name, check in checks.items() if not check.passed}
    assert {"enough_pictures", "floor_auroc", "not_worse_than_champion"} <= failing


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_never_raises(value: float) -> None:
    rng = np.random.default_rng(0)
    labels = _labels(200, rng)
    good = _scored(_model(labels, 0.98, rng))
    probabilities = good.probabilities.copy()
    probabilities[3, 1] = value
    broken = Scored(CLASSES, probabilities, good.decided, MEMBERS)
    checks = _by_name(gate.judge(_split(labels), broken, good, LIMITS))
    assert checks["floor_auroc"].detail == "the candidate's probabilities are not all finite"
    assert not checks["floor_auroc"].passed
    assert not checks["not_worse_than_champion"].passed
    reverse = _by_name(gate.judge(_split(labels), good, broken, LIMITS))
    assert "the champion's" in reverse["not_worse_than_champion"].detail
    short = Scored(CLASSES, good.probabilities[:10], good.decided, MEMBERS)
    assert "wrong shape" in gate.floors(_split(labels), short, LIMITS)[0].detail


def test_an_empty_gate_split_is_refused() -> None:
    scored = Scored(CLASSES, np.zeros((0, 2)), np.zeros(0, dtype=np.int64), MEMBERS)
    checks = gate.judge(_split(np.zeros(0, dtype=np.int64)), scored, scored, LIMITS)
    failing = {check.name for check in checks if not check.passed}
    assert {"enough_pictures", "floor_auroc", "not_worse_than_champion"} <= failing


def test_a_floor_is_reached_or_not_and_must_be_known() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(200, rng)
    scored = _scored(_model(labels, 0.95, rng))
    limits = Limits(floors={"accuracy": 0.5, "f1": 0.9999, "ece": 0.1, "beauty": 0.1}, margin=0.02)
    checks = _by_name(gate.floors(_split(labels), scored, limits))
    assert checks["floor_accuracy"].passed
    assert "floor 0.5000" in checks["floor_accuracy"].detail
    assert not checks["floor_f1"].passed
    assert "takes no floor" in checks["floor_ece"].detail
    assert not checks["floor_beauty"].passed


def test_a_model_that_has_seen_the_gate_split_is_refused() -> None:
    seen = np.frombuffer(b"".join(map(bytes.fromhex, DIGESTS[3:6])), dtype=np.uint8).reshape(-1, 32)
    assert gate.overlap(seen, DIGESTS[:5]) == 2
    rng = np.random.default_rng(0)
    labels = _labels(200, rng)
    scores = _model(labels, 0.98, rng)
    honest, spoilt = _scored(scores), _scored(scores, seen)
    one = _by_name(gate.judge(_split(labels), spoilt, honest, LIMITS))
    assert not one["candidate_never_saw_gate"].passed
    assert "3 of 200 gate pictures" in one["candidate_never_saw_gate"].detail
    assert one["champion_never_saw_gate"].passed
    other = _by_name(gate.judge(_split(labels), honest, spoilt, LIMITS))
    assert not other["champion_never_saw_gate"].passed
    silent = _scored(scores, np.zeros((0, 32), dtype=np.uint8))
    assert not gate.judge(_split(labels), silent, None, LIMITS)[1].passed


def test_a_champion_may_name_the_same_classes_in_another_order() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(400, rng)
    scored = _scored(_model(labels, 0.99, rng))
    turned = Scored(CLASSES[::-1], scored.probabilities[:, ::-1], scored.decided, MEMBERS)
    check = gate.not_worse(_split(labels), scored, turned, LIMITS)
    assert check.passed
    assert "+0.0000" in check.detail
    stranger = Scored(("NORMAL", "COVID"), scored.probabilities, scored.decided, MEMBERS)
    assert "other classes" in gate.not_worse(_split(labels), scored, stranger, LIMITS).detail


def test_perfect_models_need_enough_pictures_too() -> None:
    def check(n: int) -> Check:
        labels = np.arange(n) % 2
        scored = _scored(np.where(labels == 1, 4.0, -4.0))
        return gate.not_worse(_split(labels), scored, scored, LIMITS)

    assert check(400).passed
    assert not check(60).passed


def test_a_misplaced_threshold_is_seen_where_the_ranking_is_as_good() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(500, rng)
    good = _scored(_model(labels, 0.98, rng))
    blind = Scored(CLASSES, good.probabilities, np.ones(500, dtype=np.int64), MEMBERS)
    checks = _by_name(gate.judge(_split(labels), blind, good, LIMITS))
    assert checks["not_worse_than_champion"].passed
    assert not checks["decides_no_worse_than_champion"].passed
    assert "only the champion" in checks["decides_no_worse_than_champion"].detail
    same = gate.decides_no_worse(_split(labels), good, good, LIMITS)
    assert same.passed
    turned = Scored(CLASSES[::-1], good.probabilities[:, ::-1], 1 - good.decided, MEMBERS)
    assert gate.decides_no_worse(_split(labels), good, turned, LIMITS) == same


def test_ever_more_tries_never_use_up_more_than_twice_the_allowed_error() -> None:
    errors = [1 - gate.confidence_of_try(0.95, k, "series") for k in range(1, 2001)]
    assert errors[:3] == pytest.approx([0.05, 0.05 / 3, 0.05 / 6])
    assert 0.0999 < sum(errors) < 0.1
    assert gate.confidence_of_try(0.95, 9, "none") == 0.95


def test_a_group_that_the_model_fails_is_seen_beside_a_good_average() -> None:
    rng = np.random.default_rng(0)
    labels = _labels(600, rng)
    split, sex = _split(labels), np.where(np.arange(600) % 6 == 0, "F", "M")
    decided = np.where((sex == "F") & (labels == 1), 0, labels)
    scored = Scored(CLASSES, np.full((600, 2), 0.5), decided, MEMBERS)
    slices = {f"sex {value}": sex == value for value in "FM"} | {"rare": np.arange(600) < 3}
    checks = gate.slice_floors(split, scored, slices, 0.5, 10)
    assert [(check.name, check.passed) for check in checks] == [
        ("sex F", True),
        ("sex F", False),
        ("sex M", True),
        ("sex M", True),
    ]
    assert "0.0% of" in checks[1].detail
    assert "PNEUMONIA are found, floor 50%" in checks[1].detail
    assert (decided == labels).mean() > 0.85


def test_without_floors_nothing_is_measured() -> None:
    labels = np.array([0, 1] * 20)
    bare = Limits(floors={}, margin=0.02)
    assert gate.floors(_split(labels), _scored(np.linspace(-1, 1, 40)), bare) == []
