"""It is good enough, on pictures that no choice was made on, and no worse than what serves now."""

from collections.abc import Callable

from pulmo.core import gate
from pulmo.jobs.staged import Case


def test_the_gate_split_has_enough_pictures(case: Case, show: Callable[..., None]) -> None:
    show(case.checks[gate.ENOUGH])


def test_neither_model_has_seen_the_gate_split(case: Case, show: Callable[..., None]) -> None:
    show(case.checks[gate.CANDIDATE_UNSEEN], case.checks[gate.CHAMPION_UNSEEN])


def test_quality_reaches_the_floor(case: Case, show: Callable[..., None]) -> None:
    floors = [check for name, check in case.checks.items() if name.startswith("floor_")]
    assert len(floors) == len(case.limits.floors)
    show(*floors)


def test_it_is_not_worse_than_the_champion(case: Case, show: Callable[..., None]) -> None:
    show(case.checks[gate.NOT_WORSE])
