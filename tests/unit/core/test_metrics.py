"""Metrics against their definitions, written out slowly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pulmo.core import metrics
from pulmo.core.curves import curves

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def _task(n: int, classes: int, seed: int = 0) -> tuple[Labels, Floats]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    powers = np.exp(logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


def _pair(scores: list[float]) -> Floats:
    column = np.array(scores)
    return np.stack([1 - column, column], axis=1)


def _slow_auroc(hits: NDArray[np.bool_], scores: Floats) -> float:
    pairs = scores[hits][:, None] - scores[~hits][None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def _slow_average_precision(hits: NDArray[np.bool_], scores: Floats) -> float:
    total, before = 0.0, 0.0
    for level in sorted(set(scores.tolist()), reverse=True):
        above = scores >= level
        recall = float(hits[above].sum() / hits.sum())
        total += (recall - before) * float(hits[above].mean())
        before = recall
    return total


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_ranking_metrics_count_ties_exactly(rows: list[tuple[bool, int]]) -> None:
    hits = np.array([hit for hit, _ in rows])
    scores = np.array([level / 6 for _, level in rows])
    found = metrics.values(hits.astype(np.int64), _pair(list(scores)), hits.astype(np.int64), 1)
    if hits.all() or not hits.any():
        assert found["auroc"] is None
        assert found["auprc"] is None
    else:
        assert found["auroc"] == pytest.approx(_slow_auroc(hits, scores))
        assert found["auprc"] == pytest.approx(_slow_average_precision(hits, scores))


def test_ranking_metrics_of_many_classes_are_means_over_one_against_the_rest() -> None:
    labels, probabilities = _task(200, 4)
    decided = probabilities.argmax(axis=1)
    found = metrics.values(labels, probabilities, decided, None)
    areas = [_slow_auroc(labels == k, probabilities[:, k]) for k in range(4)]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    assert metrics.auroc(labels, probabilities, None) == pytest.approx(np.mean(areas))
    precisions = [_slow_average_precision(labels == k, probabilities[:, k]) for k in range(4)]
    assert found["auprc"] == pytest.approx(np.mean(precisions))
    assert found["sensitivity"] == pytest.approx(found["balanced_accuracy"])


def test_counting_metrics_of_two_classes_follow_the_positive_one() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0])
    decided = np.array([1, 1, 1, 0, 1, 0])
    scores = _pair([0.9, 0.8, 0.7, 0.2, 0.6, 0.1])
    found = metrics.values(labels, scores, decided, 1)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["sensitivity"] == pytest.approx(3 / 4)
    assert found["specificity"] == pytest.approx(1 / 2)
    assert found["balanced_accuracy"] == pytest.approx(5 / 8)
    assert found["f1"] == pytest.approx(6 / 8)
    squares = np.array([0.1, 0.2, 0.3, 0.8, 0.6, 0.1]) ** 2
    assert found["brier"] == pytest.approx(squares.mean())
    chosen = np.array([0.9, 0.8, 0.7, 0.2, 0.4, 0.9])
    assert found["log_loss"] == pytest.approx(-np.log(chosen).mean())
    other = metrics.values(labels, scores, decided, 0)
    assert other["sensitivity"] == found["specificity"]


def test_brier_of_many_classes_sums_over_them() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    labels = np.array([0, 2])
    found = metrics.values(labels, probabilities, labels, None)
    assert found["brier"] == pytest.approx((0.25 + 0.09 + 0.04 + 0.01 + 0.01 + 0.04) / 2)


def test_calibration_error_is_the_mean_gap_of_fifteen_bins_of_equal_mass() -> None:
    labels, probabilities = _task(450, 2)
    scores, hits = probabilities[:, 1], labels == 1
    gaps = 0.0
    for part in np.array_split(np.argsort(scores), 15):
        gaps += abs(float(hits[part].mean() - scores[part].mean())) * len(part)
    found = metrics.values(labels, probabilities, labels, 1)
    assert found["ece"] == pytest.approx(gaps / 450)


def test_calibration_error_of_many_classes_looks_at_the_largest_probability() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1]] * 10)
    labels = np.array([0] * 7 + [1, 1, 2])
    found = metrics.values(labels, probabilities, np.zeros(10, dtype=np.int64), None)
    assert found["ece"] == pytest.approx(0.1)


def test_a_missing_class_leaves_undefined_what_needs_it() -> None:
    labels = np.zeros(5, dtype=np.int64)
    scores = _pair([0.1, 0.2, 0.3, 0.4, 0.5])
    found = metrics.values(labels, scores, labels, 1)
    undefined = {name for name, value in found.items() if value is None}
    assert undefined == {"auroc", "auprc", "balanced_accuracy", "sensitivity", "f1"}
    estimates = metrics.evaluate_all(labels, scores, labels, list("abcde"), positive=1)
    assert estimates["auroc"].value is None
    assert estimates["auroc"].low is None
    assert estimates["accuracy"].value == 1.0


def test_intervals_hold_their_value_repeat_and_widen_with_fewer_patients() -> None:
    labels, probabilities = _task(300, 2)
    decided = probabilities.argmax(axis=1)
    alone = [str(i) for i in range(300)]
    first = metrics.evaluate_all(labels, probabilities, decided, alone, positive=1)
    again = metrics.evaluate_all(labels, probabilities, decided, alone, positive=1)
    assert first == again
    for estimate in first.values():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.value <= estimate.high
    twins = np.repeat(np.arange(300), 4)
    fours = metrics.evaluate_all(
        labels[twins], probabilities[twins], decided[twins], [str(i) for i in twins], positive=1
    )
    one, four = first["accuracy"], fours["accuracy"]
    assert one.low is not None
    assert four.low is not None
    assert four.low == pytest.approx(one.low, abs=0.01)  # copies of a patient bring no certainty


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hit = 0
    for _ in range(200):
        right = rng.random(150) < 0.8
        named = {"accuracy": metrics.mean(right)}
        groups = [str(i) for i in range(150)]
        found = metrics.bootstrap(named, groups, resamples=300, confidence=0.9, seed=0)
        low, high = found["accuracy"].low, found["accuracy"].high
        hit += low is not None and high is not None and low <= 0.8 <= high
    assert 0.83 <= hit / 200 <= 0.96


def test_a_metric_that_most_resamples_lack_has_no_interval() -> None:
    among = np.zeros(50, dtype=bool)
    among[0] = True
    named = {
        "rare": metrics.mean(np.ones(50), among),
        "never": metrics.mean(np.ones(50), ~np.ones(50, dtype=bool)),
    }
    groups = ["first"] + [f"other {i // 25}" for i in range(49)]
    found = metrics.bootstrap(named, groups, resamples=200, confidence=0.95, seed=0)
    assert found["rare"].value == 1.0
    assert found["never"].value is None
    few = metrics.bootstrap(
        named, [str(i) for i in range(50)], resamples=200, confidence=0.95, seed=0
    )
    assert few["rare"].low == 1.0  # about 63 % of the resamples hold the picture


def test_resamples_draw_as_many_groups_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_CHUNK", 40)
    groups = ["a", "a", "b", "c", "c", "c"]
    weights = np.concatenate(list(metrics.resample(groups, 100, seed=3)))
    assert weights.shape == (100, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) > 5


def test_the_confusion_matrix_has_the_truth_in_its_rows() -> None:
    counts = metrics.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_curves_of_two_classes_run_from_corner_to_corner() -> None:
    labels = np.array([0, 0, 1, 1])
    drawn = curves(labels, _pair([0.1, 0.4, 0.35, 0.8]), 1)
    assert drawn["roc"] == {"fpr": [0, 0, 0.5, 0.5, 1], "tpr": [0, 0.5, 0.5, 1, 1]}
    assert drawn["pr"]["recall"] == [0, 0.5, 0.5, 1, 1]
    assert drawn["pr"]["precision"] == [1, 1, 0.5, 0.666667, 0.5]
    assert sum(drawn["reliability"]["count"]) == 4


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 4), st.integers(1, 700), st.booleans())
def test_curves_are_short_finite_and_between_zero_and_one(
    classes: int, n: int, named: bool
) -> None:
    labels, probabilities = _task(n, classes, seed=n)
    drawn = curves(labels, probabilities, 1 if named and classes == 2 else None)
    for name, points in drawn.items():
        lengths = {len(values) for values in points.values()}
        assert len(lengths) == 1
        assert lengths.pop() <= 200
        for axis, values in points.items():
            if axis != "count":
                assert all(0 <= value <= 1 for value in values), name


def test_curves_that_need_a_missing_class_are_left_out() -> None:
    labels = np.zeros(5, dtype=np.int64)
    assert set(curves(labels, _pair([0.1] * 5), 1)) == {"reliability"}


def test_the_area_under_a_drawn_roc_is_the_auroc() -> None:
    labels, probabilities = _task(150, 2)
    roc = curves(labels, probabilities, 1)["roc"]
    area = np.trapezoid(roc["tpr"], roc["fpr"])
    assert area == pytest.approx(metrics.auroc(labels, probabilities, 1), abs=1e-5)
