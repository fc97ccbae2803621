"""The accuracy that is expected without labels is near the true one, or said to be unknown."""

from dataclasses import replace

import numpy as np
import pytest
from samples import blind, make_sample

from pulmo.core.drift import judge
from pulmo.core.sample import Sample
from pulmo.core.unlabelled import Expected, expect
from pulmo.errors import ModelError

REFERENCE = make_sample(400, 0)


def expected(window: Sample, reference: Sample = REFERENCE) -> Expected:
    return expect(reference, window, judge(reference, window))


def accuracy(sample: Sample) -> float:
    return float((sample.decided == sample.labels).mean())


@pytest.mark.parametrize("sick", [0.5, 0.1, 0.9])
def test_the_expected_accuracy_and_mix_follow_the_mix_of_classes(sick: float) -> None:
    window = make_sample(600, 1, sick=sick)
    found = expected(window)
    assert found.doubt is None
    assert found.reference == accuracy(REFERENCE)
    assert found.accuracy == pytest.approx(accuracy(window), abs=0.03)
    assert found.low <= found.accuracy <= found.high
    assert found.mix[1] == pytest.approx(sick, abs=0.07)
    assert sum(found.mix) == pytest.approx(1)


def test_less_confidence_is_less_accuracy() -> None:
    window = make_sample(400, 1)
    dull = 0.5 + (window.probabilities - 0.5) * 0.7
    assert expected(replace(window, probabilities=dull, score=dull[:, 1])).accuracy < 0.9


def test_pictures_that_moved_within_a_class_make_it_unbelievable() -> None:
    found = expected(make_sample(100, 1, shift=1.0))
    assert found.doubt is not None
    assert "embedding" in found.doubt
    assert expected(make_sample(100, 1, sick=0.95)).doubt is None


def test_where_nobody_looked_at_the_pictures_it_is_unbelievable() -> None:
    found = expected(blind(make_sample(100, 1)))
    assert found.doubt is not None
    assert "unseen" in found.doubt


def test_it_is_the_same_every_time_and_within_bounds() -> None:
    window = make_sample(20, 1)
    assert expected(window) == expected(window)
    sure = np.tile([0.0, 1.0], (50, 1))
    certain = replace(
        make_sample(50, 1), probabilities=sure, score=sure[:, 1], decided=np.ones(50, np.int64)
    )
    found = expected(certain)
    assert 0 <= found.low <= found.accuracy <= found.high <= 1


def test_without_labels_nothing_is_expected() -> None:
    window = make_sample(50, 1)
    plain = replace(REFERENCE, labels=None)
    with pytest.raises(ModelError, match="no labels"):
        expect(plain, window, judge(plain, window))


def test_without_patients_every_picture_stands_alone() -> None:
    window = make_sample(50, 1)
    assert expected(window, replace(REFERENCE, patients=None)).accuracy == pytest.approx(
        expected(window).accuracy
    )
