"""Random numbers are keyed: nothing but seed, epoch and sample decides them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core.randomness import permutation, uniforms

GOLDEN = [[0.17541561601846456, 0.4732158221135335], [0.476815107282642, 0.7913294559182198]]

keys = st.integers(min_value=0, max_value=2**31 - 1)


@given(seed=keys, epoch=st.integers(0, 1000), n=st.integers(0, 50))
def test_a_permutation_holds_every_sample_once(seed: int, epoch: int, n: int) -> None:
    assert sorted(permutation(seed, epoch, n)) == list(range(n))


def test_another_epoch_or_seed_gives_another_order() -> None:
    orders = {tuple(permutation(seed, epoch, 30)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(seed=keys, epoch=st.integers(0, 1000))
def test_a_sample_draws_the_same_whatever_stands_beside_it(seed: int, epoch: int) -> None:
    together = uniforms(seed, epoch, np.array([3, 7, 11]), 4)
    alone = uniforms(seed, epoch, np.array([7]), 4)
    np.testing.assert_array_equal(together[1], alone[0])


def test_draws_are_uniform_and_independent() -> None:
    drawn = uniforms(1, 2, np.arange(20_000), 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.002)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(3), atol=0.03)
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03


def test_draws_never_change_between_releases() -> None:
    expected = uniforms(0, 0, np.array([0, 1]), 2)
    np.testing.assert_allclose(expected, GOLDEN, rtol=0, atol=1e-15)
