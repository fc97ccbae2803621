"""It is good enough, on pictures that no choice was made on, and no worse than what serves now."""

from collections.abc import Callable

import numpy as np

from pulmo.core import baseline, gate
from pulmo.core.metrics import auroc, values
from pulmo.core.ports import Check
from pulmo.data.manifest import TRAIN
from pulmo.jobs.slices import members
from pulmo.jobs.staged import Case

CHANCE = 0.5


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


def test_it_decides_no_worse_than_the_champion(case: Case, show: Callable[..., None]) -> None:
    show(case.checks[gate.DECISIONS])


def test_every_class_reaches_its_floor(case: Case, show: Callable[..., None]) -> None:
    decided, labels = case.candidate.scored.decided, case.split.labels
    checks = []
    for index, name in enumerate(case.candidate.scored.classes):
        found = float((decided[labels == index] == index).mean())
        detail = f"{found:.1%} of {name} are found, floor {case.limits.class_floor:.0%}"
        checks.append(Check(name, found >= case.limits.class_floor, detail))
    show(*checks)


def test_every_slice_reaches_its_floor(case: Case, show: Callable[..., None]) -> None:
    least = case.limits.slice_pictures
    slices = {
        f"{attribute} {value}": among
        for attribute, named in members(case.candidate.gate_rows).items()
        for value, among in named.items()
    }
    scored, floor = case.candidate.scored, case.limits.slice_floor
    checks = gate.slice_floors(case.split, scored, slices, floor, least)
    none = f"no slice has {least} gate pictures of a class"
    show(*(checks or [Check("slice", True, none)]))


def test_it_knows_more_than_chance(case: Case, show: Callable[..., None]) -> None:
    found = auroc(case.split.labels, case.candidate.outputs.probabilities, case.split.positive)
    assert found is not None
    told = f"AUROC {found:.3f}, a coin has {CHANCE:.3f}"
    if found < CHANCE / 2:
        told += ": it ranks the wrong way round, the labels were swapped in training"
    elif found < (1 + CHANCE) / 2:
        told += ": nothing was learned; a random head, blank pictures or shuffled labels do this"
    show(Check("chance", found >= (1 + CHANCE) / 2, told))


def test_a_simple_model_is_no_better(case: Case, show: Callable[..., None]) -> None:
    candidate = case.candidate
    classes = candidate.scored.classes
    rows = candidate.dataset.manifest.rows
    taught = [(i, classes.index(r.label)) for i, r in enumerate(rows) if r.split == TRAIN]
    places, labels = np.array(taught, dtype=np.int64).T
    line = baseline.fit(baseline.thumbnails(candidate.pixels_of(places)), labels, len(classes))
    scores = line.scores(baseline.thumbnails(candidate.pixels))
    simple = auroc(case.split.labels, scores, case.split.positive)
    ours = auroc(case.split.labels, candidate.outputs.probabilities, case.split.positive)
    assert simple is not None
    assert ours is not None
    least = simple + case.limits.above_baseline
    detail = f"AUROC {ours:.3f}, a linear model on thumbnails {simple:.3f}, floor {least:.3f}"
    show(Check("baseline", ours >= least, detail))


def test_probabilities_mean_what_they_say(case: Case, show: Callable[..., None]) -> None:
    scored = case.candidate.scored
    ece = values(case.split.labels, scored.probabilities, scored.decided, case.split.positive)[
        "ece"
    ]
    assert ece is not None
    show(Check("ece", ece <= case.limits.ece, f"ECE {ece:.3f}, at most {case.limits.ece:.3f}"))
