"""Windows like the reference seldom alarm, others do, and the report says what moved."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import blind, make_sample

from pulmo.core import drift
from pulmo.core.drift import Report, judge, moved_within_classes
from pulmo.core.sample import Sample
from pulmo.errors import DataError, ModelError

REFERENCE = make_sample(120, 0)


def moved(sample: Sample, name: str, by: float) -> Sample:
    values = {**sample.statistics, name: sample.statistics[name] + by}
    return replace(sample, statistics=values)


def test_windows_like_the_reference_alarm_as_seldom_as_promised() -> None:
    """Each trial draws both sides anew: 150 trials at 10 % are 15 ± 3.7 alarms, if p is uniform."""
    found = [
        judge(make_sample(60, 2 * seed), make_sample(20, 2 * seed + 1), 0.1).p
        for seed in range(150)
    ]
    assert 3 <= sum(p <= 0.1 for p in found) <= 28
    assert 50 <= sum(p <= 0.5 for p in found) <= 100


def test_a_window_like_the_reference_is_no_drift() -> None:
    report = judge(REFERENCE, make_sample(50, 1))
    assert not report.alarm
    assert report.drifted == ()
    assert (report.pictures, report.reference, report.unknown) == (50, 120, ())
    names = [one.name for one in report.findings]
    assert names[:3] == ["embedding", "brightness", "contrast"]
    assert names[3:] == ["score", "class mix", "referred", "outliers"]


def test_the_feature_that_moved_is_named_alone() -> None:
    window = moved(make_sample(50, 1), "contrast", 0.05)
    report = judge(REFERENCE, window)
    assert report.alarm
    assert report.drifted == ("contrast",)
    found = next(one for one in report.findings if one.name == "contrast")
    assert found.p == report.p
    assert found.usual == pytest.approx(REFERENCE.statistics["contrast"].mean())
    assert found.now == pytest.approx(window.statistics["contrast"].mean())


def test_distances_are_those_of_their_definitions() -> None:
    window = make_sample(30, 1)
    found = {one.name: one.distance for one in judge(REFERENCE, window).findings}
    values = np.concatenate([REFERENCE.score, window.score])
    gaps = [abs((REFERENCE.score <= v).mean() - (window.score <= v).mean()) for v in values]
    assert found["score"] == pytest.approx(max(gaps), abs=1e-6)
    mix = abs(REFERENCE.decided.mean() - window.decided.mean())
    assert found["class mix"] == pytest.approx(mix, abs=1e-6)
    sides = [
        one.embeddings / np.linalg.norm(one.embeddings, axis=1, keepdims=True)
        for one in (REFERENCE, window)
        if one.embeddings is not None
    ]

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a[:, None] - b[None], axis=2).mean())

    energy = 2 * mean(*sides) - mean(sides[0], sides[0]) - mean(sides[1], sides[1])
    assert found["embedding"] == pytest.approx(energy, rel=1e-3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_order_of_pictures_plays_no_part(seed: int) -> None:
    draw = np.random.default_rng(seed)
    window = make_sample(25, 3, shift=0.3)
    shuffled = window.only(draw.permutation(25))
    mixed = REFERENCE.only(draw.permutation(len(REFERENCE)))
    assert judge(mixed, shuffled) == judge(REFERENCE, window)


def test_of_many_pictures_a_thousand_are_looked_at() -> None:
    report = judge(make_sample(1500, 0), make_sample(1200, 1, shift=0.5))
    assert (report.pictures, report.reference) == (drift.MOST, drift.MOST)
    assert report.drifted == ("embedding", "brightness")


def test_what_one_side_does_not_know_is_told() -> None:
    report = judge(REFERENCE, blind(make_sample(50, 1)))
    assert report.unknown == ("embedding", "brightness", "contrast")
    assert [one.kind for one in report.findings] == ["answer"] * 4
    window = replace(make_sample(50, 1), outlying=None)
    assert judge(REFERENCE, window).unknown == ("outliers",)
    assert judge(blind(REFERENCE), blind(window)).unknown == ("outliers",)


def test_equal_values_part_nobody() -> None:
    flat = {"brightness": np.full(120, 0.5), "contrast": np.zeros(120)}
    reference = replace(REFERENCE, statistics=flat)
    window = replace(reference.only(np.arange(40)), embeddings=np.zeros((40, 8), dtype=np.float32))
    found = {one.name: one for one in judge(reference, window).findings}
    assert (found["brightness"].distance, found["brightness"].p) == (0, 1)
    assert found["embedding"].drifted


@pytest.mark.parametrize("n", [0, 1, 19])
def test_too_few_pictures_are_told_how_many_are_needed(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} pictures cannot tell .* at least 20 are needed"):
        judge(REFERENCE, make_sample(n, 1))
    with pytest.raises(ModelError, match="train it on more data"):
        judge(make_sample(n, 1), make_sample(50, 1))


def test_embeddings_of_another_length_are_refused() -> None:
    window = replace(make_sample(50, 1), embeddings=np.ones((50, 3), dtype=np.float32))
    with pytest.raises(DataError, match="not of the length"):
        judge(REFERENCE, window)


def test_another_mix_of_classes_moves_nothing_within_them() -> None:
    window = make_sample(60, 1, sick=0.95)
    report = judge(REFERENCE, window)
    assert {"class mix", "score"} <= set(report.drifted)
    assert moved_within_classes(REFERENCE, window) == ()
    brighter = moved(window, "brightness", 0.1)
    assert moved_within_classes(REFERENCE, brighter) == ("brightness",)


def test_classes_that_one_side_lacks_are_left_out() -> None:
    healthy = REFERENCE.only(REFERENCE.decided == 0)
    sick = make_sample(60, 1)
    assert moved_within_classes(healthy, sick.only(sick.decided == 0)) == ()
    nobody = moved_within_classes(healthy, sick.only(sick.decided == 1))
    assert nobody == ("embedding", "brightness", "contrast")


def test_a_small_bound_can_be_reached() -> None:
    assert judge(REFERENCE, make_sample(50, 1, shift=3), 0.002).p <= 0.002


def test_a_report_alarms_at_its_bound() -> None:
    report = judge(REFERENCE, make_sample(50, 1))
    assert isinstance(report, Report)
    assert replace(report, bound=report.p).alarm
    assert not replace(report, bound=report.p - 1e-9).alarm
