"""Referring the doubtful, and McNemar's exact test by its definition."""

from functools import partial
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core.metrics import bootstrap
from pulmo.core.referral import mcnemar, refer_curve


def test_referring_the_doubtful_leaves_the_right_answers() -> None:
    scores = np.linspace(0, 1, 101)
    right = np.abs(scores - 0.5) > 0.1  # wrong about the threshold alone
    draw = partial(
        bootstrap, groups=[f"p{i}" for i in range(101)], resamples=200, confidence=0.95, seed=0
    )
    found = refer_curve(right, scores, 0.5, draw)
    assert found["referred"][0] == 0
    assert found["accuracy"][0] == pytest.approx(right.mean())
    assert found["referred"] == sorted(found["referred"])
    assert found["accuracy"][-1] == 1
    where = next(i for i, share in enumerate(found["referred"]) if share >= 21 / 101)
    assert found["accuracy"][where] == 1
    for low, value, high in zip(found["low"], found["accuracy"], found["high"], strict=True):
        assert low <= value <= high


def test_the_least_sure_of_many_classes_go_first() -> None:
    sure = np.linspace(0.2, 1, 50)
    draw = partial(bootstrap, groups=["p"] * 50, resamples=100, confidence=0.9, seed=0)
    found = refer_curve(sure > 0.4, sure, None, draw)
    assert found["accuracy"] == sorted(found["accuracy"])
    assert found["referred"][-1] == pytest.approx(0.5, abs=0.02)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_mcnemar_is_the_tail_of_a_fair_coin(first: int, second: int, both: int) -> None:
    right = np.array([True] * first + [False] * second + [True] * both, dtype=bool)
    other = np.array([False] * first + [True] * second + [True] * both, dtype=bool)
    n = first + second
    tail = sum(comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert mcnemar(right, other) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(right, other) == mcnemar(other, right)
