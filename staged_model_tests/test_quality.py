"""It is good enough, on pictures that no choice was made on, and no worse than what serves now."""

from collections.abc import Callable

from pulmo.core import gate
from pulmo.core.metrics import values
from pulmo.core.ports import Check
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


def test_every_class_reaches_its_floor(case: Case, show: Callable[..., None]) -> None:
    decided, labels = case.candidate.scored.decided, case.split.labels
    checks = []
    for index, name in enumerate(case.candidate.scored.classes):
        found = float((decided[labels == index] == index).mean())
        detail = f"{found:.1%} of {name} are found, floor {case.limits.class_floor:.0%}"
        checks.append(Check(name, found >= case.limits.class_floor, detail))
    show(*checks)


def test_probabilities_mean_what_they_say(case: Case, show: Callable[..., None]) -> None:
    scored = case.candidate.scored
    ece = values(case.split.labels, scored.probabilities, scored.decided, case.split.positive)[
        "ece"
    ]
    assert ece is not None
    show(Check("ece", ece <= case.limits.ece, f"ECE {ece:.3f}, at most {case.limits.ece:.3f}"))
