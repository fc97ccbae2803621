"""Exchanges keep sizes, groups and classes, and every picture stands in the window as often."""

import numpy as np

from pulmo.core.exchanges import exchanges, exchanges_within

GROUPS = np.array([0, 1, 2, 3, 4, 4, 4, 5, 5, 6], dtype=np.int64)


def test_the_true_window_comes_first_and_all_have_its_size() -> None:
    columns = exchanges(GROUPS, 4, 500)
    assert columns.shape == (10, 501)
    inside = columns.T
    assert inside[0].tolist() == [1] * 4 + [0] * 6
    assert (inside.sum(axis=1) == 4).all()
    assert set(np.unique(inside)) == {0, 1}
    assert np.abs(inside[1:].mean(axis=0) - 0.4).max() < 0.15
    assert np.array_equal(columns, exchanges(GROUPS.copy(), 4, 500))


def test_a_group_changes_sides_together_unless_the_window_is_full() -> None:
    inside = exchanges(GROUPS, 4, 500).T[1:]
    pair = inside[:, 7] == inside[:, 8]
    assert pair.mean() > 0.85
    alone = exchanges(np.arange(10), 4, 500).T[1:]
    assert (alone[:, 7] == alone[:, 8]).mean() < 0.6


def test_classes_keep_their_number() -> None:
    now, usual = np.array([0, 0, 1]), np.array([0, 1, 1, 1, 0, 0, 1])
    inside = exchanges_within(GROUPS, now, usual, 200).T
    own = np.concatenate([now, usual])
    assert (inside[:, own == 0].sum(axis=1) == 2).all()
    assert (inside[:, own == 1].sum(axis=1) == 1).all()
    assert inside[0].tolist() == [1] * 3 + [0] * 7
    assert len(np.unique(inside, axis=0)) > 20
