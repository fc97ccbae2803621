"""Slices: who belongs to them, and figures that are those of their pictures alone."""

import numpy as np

from pulmo.config.schema import EvaluateConfig
from pulmo.data.manifest import Row
from pulmo.jobs.slices import MOST_VALUES, OTHERS, measure_slices, members


def _rows(name: str, values: list[str]) -> list[Row]:
    return [
        Row(f"{i}.png", "a", "test", f"p{i}", "0", "0", ((name, value),))
        for i, value in enumerate(values)
    ]


def test_pictures_without_a_value_belong_nowhere() -> None:
    found = members(_rows("kind", ["virus", "", "bacteria", "virus"]))
    assert {value: mask.tolist() for value, mask in found["kind"].items()} == {
        "bacteria": [False, False, True, False],
        "virus": [True, False, False, True],
    }


def test_an_attribute_that_is_equal_everywhere_tells_nothing() -> None:
    assert members(_rows("kind", ["virus"] * 4)) == {}
    assert list(members(_rows("kind", ["virus", ""]))["kind"]) == ["virus"]
    assert members([Row("a", "a", "test", "p", "0", "0")]) == {}


def test_numbers_are_cut_into_quartiles() -> None:
    found = members(_rows("age", [str(age) for age in range(1, 101)] + [""]))["age"]
    assert list(found) == ["1 to 25", "26 to 50", "51 to 75", "76 to 100"]
    assert [int(mask.sum()) for mask in found.values()] == [25, 25, 25, 25]


def test_few_numbers_are_words_and_so_is_what_is_not_finite() -> None:
    assert list(members(_rows("view", ["1", "2", "1"]))["view"]) == ["1", "2"]
    odd = members(_rows("age", [*map(str, range(20)), "inf"]))["age"]
    assert OTHERS in odd


def test_rare_words_are_shown_together() -> None:
    values = [f"h{i:02}" for i in range(20) for _ in range(21 - i)]
    found = members(_rows("hospital", values))["hospital"]
    assert list(found) == [*(f"h{i:02}" for i in range(MOST_VALUES)), OTHERS]
    assert sum(int(mask.sum()) for mask in found.values()) == len(values)


def test_a_slice_has_the_figures_of_its_pictures() -> None:
    rows = _rows("sex", ["F", "F", "F", "F", "M", "M"])
    labels = np.array([0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.6, 0.7, 0.9, 0.2, 0.9])
    decided = (scores > 0.5).astype(np.int64)
    given = np.array([True, False, True, True, True, True])
    women, men = measure_slices(
        rows, ("WELL", "SICK"), labels, np.stack([1 - scores, scores], axis=1), decided, given,
        1, EvaluateConfig(resamples=100), 0,
    )  # fmt: skip
    assert (women.value, women.counts, women.patients) == ("F", {"WELL": 2, "SICK": 2}, 4)
    told = {name: one.value for name, one in women.metrics.items()}
    assert told == {
        "auroc": 1.0, "accuracy": 0.75, "sensitivity": 1.0, "specificity": 0.5, "accepted": 0.75
    }  # fmt: skip
    assert (men.metrics["auroc"].value, men.metrics["sensitivity"].value) == (None, 0.5)


def test_a_slice_of_one_class_is_ranked_against_those_without_a_value() -> None:
    rows = _rows("germ", ["virus", "virus", "bacteria", "", ""])
    labels = np.array([1, 1, 1, 0, 0])
    scores = np.array([0.9, 0.4, 0.3, 0.5, 0.1])
    found = measure_slices(
        rows, ("WELL", "SICK"), labels, np.stack([1 - scores, scores], axis=1),
        (scores > 0.5).astype(np.int64), np.ones(5, dtype=bool), 1,
        EvaluateConfig(resamples=100), 0,
    )  # fmt: skip
    assert {one.value: one.metrics["auroc"].value for one in found} == {
        "bacteria": 0.5, "virus": 0.75
    }  # fmt: skip
    assert found[1].counts == {"WELL": 0, "SICK": 2}
    assert found[1].metrics["specificity"].value is None
