"""A twin that decides otherwise, or ranks worse, is no match."""

from dataclasses import replace

import numpy as np
import pytest

from pulmo.core.bundle import Specification
from pulmo.core.decision import Decider, Outputs
from pulmo.core.likeness import Likeness, likeness

LABELS = np.arange(200, dtype=np.int64) % 2


def outputs(bright: np.ndarray) -> Outputs:
    both = np.stack([1 - bright, bright], axis=1).astype(np.float32)
    return Outputs(both, np.log(both))


@pytest.fixture
def decider(toy_specification: Specification) -> Decider:
    return Decider(toy_specification, None)


def test_an_equal_twin_is_close(decider: Decider) -> None:
    one = outputs(np.where(LABELS == 1, 0.9, 0.1))
    found = likeness(decider, LABELS, one, one)
    assert found == Likeness(pictures=200, kept=1.0, lost=0.0, moved=0.0)
    assert found.close


def test_a_change_counts_where_it_changes_an_answer(decider: Decider) -> None:
    scores = np.where(LABELS == 1, 0.9, 0.1)
    moved = scores.copy()
    moved[0], moved[1] = 0.3, 0.61  # still the same side, still accepted
    assert likeness(decider, LABELS, outputs(scores), outputs(moved)).kept == 1
    moved[1] = 0.55  # the same label, now referred
    moved[2] = 0.95  # another label
    found = likeness(decider, LABELS, outputs(scores), outputs(moved))
    assert found.kept == pytest.approx(0.99)
    assert found.moved == pytest.approx(0.85)
    assert not found.close
    assert "99.00% of 200 answers are the same (at least 99.5%)" in str(found)


def test_a_lower_auroc_is_no_match_and_a_missing_class_has_none() -> None:
    good = Likeness(pictures=10, kept=1, lost=0.002, moved=0.1)
    assert good.close
    assert not replace(good, lost=0.0021).close
    assert replace(good, lost=None).close
    assert "AUROC" not in str(replace(good, lost=None))


def test_auroc_is_lost_where_ranks_are(decider: Decider) -> None:
    scores = np.where(LABELS == 1, 0.9, 0.1)
    swapped = scores.copy()
    swapped[0] = 0.95
    found = likeness(decider, LABELS, outputs(scores), outputs(swapped))
    assert found.lost == pytest.approx(0.01)
