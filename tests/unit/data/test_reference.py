"""Two data sets are as far apart as their pictures look."""

from dataclasses import replace

import pytest

from pulmo.data.looks import Look
from pulmo.data.manifest import Manifest, Row
from pulmo.data.reference import MEASURES, Reference, distances, measure

LOOK = Look(16, 12, "L", 0, brightness=120.0, contrast=40.0, sharpness=20.0)


def measured(brightness: list[float], label: str = "cat", mode: str = "L") -> Reference:
    rows = [Row(f"{i}", label, "train", f"p/{i}", "", "") for i in range(len(brightness))]
    looks = {
        f"{i}": replace(LOOK, brightness=value, mode=mode) for i, value in enumerate(brightness)
    }
    return measure(Manifest("pets", ("cat", "dog"), 1, tuple(rows)), looks)


def test_equal_data_sets_are_not_apart() -> None:
    one = measured([float(i) for i in range(200)])
    again = Reference.model_validate_json(one.model_dump_json())
    assert set(distances(one, again).values()) == {0.0}
    assert set(distances(one, again)) == {"classes", "kinds of files", *MEASURES}


@pytest.mark.parametrize(("shift", "expected"), [(50, 0.25), (100, 0.5), (500, 1.0)])
def test_a_shift_is_as_far_as_the_distributions_part(shift: int, expected: float) -> None:
    one = measured([float(i) for i in range(200)])
    other = measured([float(i + shift) for i in range(200)])
    assert distances(one, other)["brightness"] == pytest.approx(expected, abs=0.02)
    assert distances(one, other)["width"] == 0.0


def test_shares_of_classes_and_kinds_count() -> None:
    apart = distances(measured([1.0] * 4), measured([1.0] * 4, label="dog", mode="DICOM"))
    assert (apart["classes"], apart["kinds of files"]) == (1.0, 1.0)


def test_excluded_pictures_and_empty_data_sets_count_for_nothing() -> None:
    row = Row("0", "cat", "excluded", "p/0", "", "")
    empty = measure(Manifest("pets", ("cat", "dog"), 1, (row,)), {"0": LOOK})
    assert (empty.classes, empty.modes, empty.quantiles) == ({}, {}, {})
    assert distances(empty, measured([1.0])) == {"classes": 1.0, "kinds of files": 1.0}
