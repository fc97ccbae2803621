from typing import Any

import numpy as np
import pytest
from ui import charts

from pulmo.core.curves import curves


@pytest.fixture
def points() -> Any:
    labels = np.array([0, 1, 0, 1, 1, 0] * 20)
    scores = np.clip(labels * 0.3 + np.random.default_rng(0).random(120) * 0.7, 0, 1)
    return curves(labels, np.stack([1 - scores, scores], axis=1), 1)


def test_the_roc_holds_its_own_points_in_their_order(points: Any) -> None:
    chart = charts.roc(points["roc"])
    line = chart["layer"][1]
    drawn = line["data"]["values"]
    assert [row["x"] for row in drawn] == points["roc"]["fpr"]
    assert [row["y"] for row in drawn] == points["roc"]["tpr"]
    assert [row["i"] for row in drawn] == list(range(len(drawn)))
    assert line["encoding"]["order"]["field"] == "i"
    assert line["encoding"]["x"]["scale"]["domain"] == [0, 1]


def test_the_reliability_says_how_many_pictures(points: Any) -> None:
    chart = charts.reliability(points["reliability"])
    dots = chart["layer"][2]
    assert sum(row["count"] for row in dots["data"]["values"]) == 120
    assert dots["encoding"]["size"]["field"] == "count"


def test_points_that_are_not_there_are_left_out() -> None:
    told: Any = {"confidence": [0.1, 0.5], "frequency": [None, 0.5], "count": [0, 4]}
    assert charts.reliability(told)["layer"][2]["data"]["values"] == [
        {"i": 0.0, "x": 0.5, "y": 0.5, "count": 4}
    ]
