"""The evidence stays small while nothing changes, and grows fast when something does."""

from dataclasses import replace

import numpy as np
import pytest
from samples import blind, make_sample

from pulmo.core.detector import SPACING, Detector
from pulmo.errors import DataError, ModelError

REFERENCE = make_sample(200, 0)


def test_quiet_streams_alarm_no_more_often_than_promised() -> None:
    """Spacing 2,000: within 200 pictures an alarm is false in a tenth of the streams at most."""
    alarms = 0
    for seed in range(60):
        detector = Detector(make_sample(100, 2 * seed), 2000)
        detector.take(make_sample(200, 2 * seed + 1))
        alarms += detector.alarm is not None
    assert alarms <= 6 + 6  # a tenth, and two and a half standard deviations


def test_evidence_stays_below_the_number_of_pictures_in_most_streams() -> None:
    """Its mean is the number of pictures; as it is skewed, the median is less."""
    ends = [
        Detector(make_sample(100, 2 * s)).take(make_sample(100, 2 * s + 1))[-1] for s in range(60)
    ]
    assert np.median(ends) < 100
    assert min(ends) > 0


def test_a_shift_is_found_within_few_pictures_and_named() -> None:
    detector = Detector(REFERENCE)
    quiet = detector.take(make_sample(300, 1))
    assert quiet.max() < SPACING
    assert detector.alarm is None
    window = make_sample(60, 2)
    bright = {**window.statistics, "brightness": window.statistics["brightness"] + 0.4}
    detector.take(replace(window, statistics=bright))
    assert detector.alarm is not None
    assert 300 < detector.alarm.picture < 330
    assert next(iter(detector.alarm.shares)) == "brightness"
    assert sum(detector.alarm.shares.values()) == pytest.approx(1)
    assert detector.pictures == 360


def test_unusual_pictures_are_found_by_their_embeddings() -> None:
    detector = Detector(REFERENCE)
    detector.take(make_sample(60, 2, shift=3))
    assert detector.alarm is not None
    assert detector.alarm.picture < 40


def test_portions_do_not_matter() -> None:
    window = make_sample(90, 5, shift=0.2)
    whole = Detector(REFERENCE).take(window)
    detector = Detector(REFERENCE)
    parts = [detector.take(window.only(np.arange(i, i + 30))) for i in (0, 30, 60)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_what_is_not_known_is_not_betted_on() -> None:
    detector = Detector(REFERENCE)
    first = detector.take(blind(make_sample(1, 1)))[0]
    detector = Detector(REFERENCE)
    assert detector.take(make_sample(1, 1))[0] != first
    assert Detector(blind(REFERENCE)).take(make_sample(50, 1)).max() < SPACING


def test_evidence_stays_a_number_however_long_the_drift() -> None:
    detector = Detector(REFERENCE)
    evidence = detector.take(make_sample(2000, 2, shift=30))
    assert np.isfinite(evidence).all()
    assert evidence.max() > SPACING


def test_equal_values_are_ranked_by_lot() -> None:
    flat = {"brightness": np.full(200, 0.5), "contrast": np.full(200, 0.2)}
    detector = Detector(replace(REFERENCE, statistics=flat, embeddings=None))
    detector.take(replace(make_sample(200, 1), statistics=flat))
    assert detector.alarm is None


def test_embeddings_of_another_length_are_refused() -> None:
    window = replace(make_sample(30, 1), embeddings=np.ones((30, 3), dtype=np.float32))
    with pytest.raises(DataError, match="not of the length"):
        Detector(REFERENCE).take(window)


def test_a_small_reference_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 40"):
        Detector(make_sample(39, 0))
