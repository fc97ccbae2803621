"""Temperature, threshold and refer band against data whose best choice is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pulmo.core import calibration
from pulmo.core.calibration import Objective
from pulmo.errors import DataError

Floats = NDArray[np.float64]


def _drawn(n: int, classes: int, temperature: float) -> tuple[Floats, NDArray[np.int64]]:
    """Logits that are `temperature` times too large, and labels drawn from the right ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (n, classes))
    shares = calibration.softmax(logits).cumsum(axis=1)
    labels = (rng.random((n, 1)) > shares).sum(axis=1).astype(np.int64)
    return logits * temperature, labels


@pytest.mark.parametrize(("classes", "true"), [(2, 3.0), (2, 0.5), (5, 1.7)])
def test_the_temperature_undoes_what_was_done_to_the_logits(classes: int, true: float) -> None:
    logits, labels = _drawn(20_000, classes, true)
    assert calibration.temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = _drawn(5000, 3, 2.0)
    best = calibration.temperature(logits, labels)

    def loss(t: float) -> float:
        chosen = calibration.softmax(logits / t)[np.arange(len(labels)), labels]
        return float(-np.log(chosen).mean())

    assert loss(best) <= min(loss(best * 1.03), loss(best / 1.03))


def test_the_temperature_of_separated_classes_stays_inside_its_bounds() -> None:
    labels = np.array([0, 1] * 100)
    logits = np.where(np.eye(2)[labels] > 0, 3.0, -3.0)
    found = calibration.temperature(logits, labels)
    assert found > calibration.COLDEST
    surest = calibration.softmax(logits / found).max()
    assert surest == pytest.approx(1 - 0.5 / 201, abs=1e-6)  # one of 201 pictures is unknown
    assert calibration.temperature(logits * 1e4, labels) == calibration.HOTTEST
    assert calibration.temperature(logits * 1e-4, labels) == calibration.COLDEST


def test_the_temperature_has_six_decimals_and_ignores_float_noise() -> None:
    logits, labels = _drawn(300, 2, 1.3)
    found = calibration.temperature(logits, labels)
    assert found == round(found, 6)
    assert calibration.temperature(logits * (1 + 1e-12), labels) == found


@pytest.mark.parametrize("logits", [np.zeros((0, 2)), np.full((3, 2), np.nan), np.zeros((2, 2))])
def test_what_training_spoilt_is_refused(logits: Floats) -> None:
    with pytest.raises(DataError):
        calibration.temperature(logits, np.zeros(3 if len(logits) else 0, dtype=np.int64))


def test_the_threshold_is_the_middle_of_the_best_stretch() -> None:
    scores = np.array([0.1, 0.2, 0.6, 0.9])
    hits = np.array([False, False, True, True])
    assert calibration.threshold(scores, hits, "balanced_accuracy") == 0.4


def test_of_two_best_stretches_the_widest_is_taken() -> None:
    scores = np.array([0.1, 0.2, 0.5, 0.8, 0.95])
    hits = np.array([False, True, False, True, True])
    # from 0.15 up one negative is wrong, from 0.65 up one positive: 4 of 5 are right both times
    assert calibration.threshold(scores, hits, "accuracy") == 0.65


def test_balance_moves_the_threshold_where_classes_are_unequal() -> None:
    rng = np.random.default_rng(0)
    hits = np.arange(1000) < 900
    scores = np.clip(rng.normal(np.where(hits, 0.6, 0.4), 0.15), 0, 1)
    plain = calibration.threshold(scores, hits, "accuracy")
    balanced = calibration.threshold(scores, hits, "balanced_accuracy")
    assert plain < balanced


_scores = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=2, max_size=60)


@given(_scores, st.sampled_from(["accuracy", "balanced_accuracy"]))
def test_no_threshold_does_better_on_the_validation_data(
    rows: list[tuple[int, bool]], objective: Objective
) -> None:
    scores = np.array([level / 40 for level, _ in rows], dtype=np.float32)
    hits = np.array([hit for _, hit in rows])
    if hits.all() or not hits.any():
        with pytest.raises(DataError, match="both classes"):
            calibration.threshold(scores, hits, objective)
        return

    def worth(threshold: float) -> float:
        right = (scores.astype(np.float64) >= threshold) == hits
        if objective == "accuracy":
            return float(right.mean())
        return float(right[hits].mean() + right[~hits].mean())

    found = calibration.threshold(scores, hits, objective)
    assert 0 <= found <= 1
    assert worth(found) == pytest.approx(max(map(worth, [*np.unique(scores), 1.0])))


def test_the_refer_band_holds_its_share_evenly_on_both_sides() -> None:
    scores = (np.arange(1000) + 0.5) / 1000
    low, high = calibration.refer_band(scores, 0.3, 0.1)
    assert (low, high) == (0.25, 0.35)
    assert ((scores >= low) & (scores < high)).mean() == pytest.approx(0.1)


def test_what_one_side_of_the_band_lacks_the_other_gives() -> None:
    scores = (np.arange(1000) + 0.5) / 1000
    assert calibration.refer_band(scores, 0.02, 0.1) == (0.0, 0.1)
    assert calibration.refer_band(scores, 0.98, 0.1) == (0.9, 1.0)


def test_without_a_threshold_the_band_begins_at_zero() -> None:
    scores = np.linspace(0.4, 1, 101)
    low, high = calibration.refer_band(scores, None, 0.1)
    assert low == 0
    assert (scores < high).sum() == 10


def test_nobody_is_referred_where_nobody_shall_be() -> None:
    scores = np.linspace(0, 1, 11)
    assert calibration.refer_band(scores, 0.5, 0.0) == (0.5, 0.5)
    assert calibration.refer_band(scores, None, 0.0) == (0.0, 0.0)


def test_the_band_of_very_sure_scores_does_not_swallow_them_all() -> None:
    scores = np.array([1e-9] * 50 + [2e-8] * 5 + [1 - 3e-8] * 5 + [1 - 1e-8] * 50)
    low, high = calibration.refer_band(scores, 0.5, 0.09)
    assert ((scores >= low) & (scores < high)).sum() == 10


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_middle_lies_strictly_above_the_lower_end(one: float, other: float) -> None:
    low, high = sorted((one, other))
    middle = calibration.between(low, high)
    assert low <= middle <= high
    if high - low > 1e-5:
        assert low < middle
        assert middle == round(middle, 6)
