"""Differences of two models: against the formulas, and against counting."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.core import metrics
from pulmo.core.paired import auroc_parts, difference, worse_decisions

Floats = NDArray[np.float64]


def _two(scores: Floats) -> Floats:
    return np.stack([-scores, scores], axis=1)


def test_the_difference_of_many_classes_is_that_of_the_mean_auroc() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    pair = []
    for strength in (3.0, 2.0):
        logits = rng.normal(size=(400, 4)) + strength * np.eye(4)[labels]
        powers = np.exp(logits)
        pair.append(powers / powers.sum(axis=1, keepdims=True))
    found = difference(labels, [str(i) for i in range(400)], None, pair[0], pair[1], 0.95)
    areas = [metrics.auroc(labels, p, None) for p in pair]
    assert found is not None
    assert areas[0] is not None
    assert areas[1] is not None
    assert found[0] == pytest.approx(areas[0] - areas[1])
    assert 0 < found[1] < found[0]


def test_the_parts_of_an_auroc_give_the_variance_of_delong() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(150) < 0.74).astype(np.int64)
    scores: Floats = np.rint(10 * rng.normal(size=150) + 18 * labels) / 10.0  # with ties
    found = auroc_parts(labels, _two(scores), 1)
    assert found is not None
    value, parts = found
    up, down = scores[labels == 1], scores[labels == 0]
    order = (up[:, None] > down) + 0.5 * (up[:, None] == down)
    assert value == pytest.approx(order.mean())
    expected = order.mean(axis=1).var() / len(up) + order.mean(axis=0).var() / len(down)
    assert (parts**2).sum() == pytest.approx(expected)


def test_pictures_of_one_patient_are_not_counted_as_many() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.integers(0, 2, 60), 4)
    shared = np.repeat(rng.normal(size=60), 4)
    pair = [_two(shared + 2 * labels + 0.3 * rng.normal(size=240)) for _ in range(2)]
    pair[1] += _two(np.repeat(rng.normal(size=60), 4))
    alone = difference(labels, [str(i) for i in range(240)], 1, pair[0], pair[1], 0.95)
    together = difference(labels, [str(i // 4) for i in range(240)], 1, pair[0], pair[1], 0.95)
    assert alone is not None
    assert together is not None
    assert alone[0] == together[0]
    assert together[1] < alone[1]


def test_more_confidence_asks_for_more() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 200)
    pair = [_two(rng.normal(size=200) + 3 * labels) for _ in range(2)]
    low = [
        difference(labels, [str(i) for i in range(200)], 1, pair[0], pair[1], c)
        for c in (0.9, 0.95, 0.99)
    ]
    bounds = [found[1] for found in low if found is not None]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 3


@pytest.mark.parametrize("patients", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 2, 3, 4]])
def test_the_chance_of_a_balance_is_that_of_all_coins(patients: list[int]) -> None:
    ours = np.array([1, 0, 0, 0, 0, 1, 0, 0], dtype=bool)
    theirs = np.array([0, 1, 1, 0, 1, 1, 1, 1], dtype=bool)
    gains = [
        sum(int(ours[i]) - int(theirs[i]) for i in range(8) if patients[i] == p)
        for p in sorted(set(patients))
    ]
    coins = list(itertools.product((-1, 1), repeat=len(gains)))
    worse = sum(
        sum(c * abs(g) for c, g in zip(coin, gains, strict=True)) <= sum(gains) for coin in coins
    )
    only_ours, only_theirs, chance = worse_decisions(ours, theirs, [str(p) for p in patients])
    assert (only_ours, only_theirs) == (1, 5)
    assert chance == pytest.approx(worse / len(coins))


def test_models_that_decide_alike_are_not_told_apart() -> None:
    same = np.array([True, False, True])
    assert worse_decisions(same, same, ["a", "b", "c"]) == (0, 0, 1.0)
