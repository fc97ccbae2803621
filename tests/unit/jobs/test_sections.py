"""Sections of the report for many classes, for validation data, for a class that is missing."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core.bundle import Bundle, DecisionSpec
from pulmo.core.decision import Decider, Outputs, labels_of
from pulmo.data.manifest import DataSet, Manifest, Row
from pulmo.jobs.evaluate import measure
from pulmo.jobs.sections import Measured, section

CLASSES = ("a", "b", "c")


def _measured(
    bundle: Bundle, split: str, labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> tuple[DataSet, Measured]:
    spec = bundle.info.specification
    rows = tuple(
        Row(f"{split}/{i}.png", spec.classes[k], split, f"p{i}", "0" * 64, f"{i:064x}")
        for i, k in enumerate(labels)
    )
    outputs = Outputs(probabilities, np.log(probabilities))
    patients = [row.patient for row in rows]
    config = EvaluateConfig(resamples=100)
    found, curves = measure(spec, None, outputs, labels, patients, config, 0)
    part = Measured(
        split=split,
        rows=rows,
        labels=labels,
        decided=labels_of(probabilities, spec),
        probabilities=probabilities,
        answers=tuple(Decider(spec, None).answers(outputs)),
        metrics=found,
        curves=curves,
        seen=0,
    )
    return DataSet(Path(), Path(), Manifest("toy", spec.classes, 1, rows)), part


@pytest.fixture
def of_three(toy_bundle: Bundle) -> Bundle:
    """The toy bundle, as if it told three classes apart."""
    decision = DecisionSpec(rule="argmax", refer_low=0, refer_high=0.5)
    changes = {"classes": CLASSES, "decision": decision, "outliers": None}
    specification = toy_bundle.info.specification.model_copy(update=changes)
    info = toy_bundle.info.model_copy(update={"specification": specification})
    return toy_bundle.model_copy(update={"info": info})


def test_the_surest_mistakes_come_first_and_referred_ones_are_marked(
    of_three: Bundle, tmp_path: Path
) -> None:
    rows = [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.05, 0.05, 0.9]]
    probabilities = np.array(rows, dtype=np.float32)
    dataset, part = _measured(of_three, "val", np.array([0, 2, 1, 0]), probabilities)
    pixels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    found = section(of_three, dataset, pixels, part, tmp_path)
    told = [(one.truth, one.answer, one.decision) for one in found.mistakes]
    assert told == [
        ("a", "c", "answered"),
        ("c", "b", "answered"),
        ("b", "c", "referred to a human"),
    ]
    assert found.mistakes[0].probability == pytest.approx(0.9)
    np.testing.assert_array_equal(found.mistakes[0].pixels, pixels[3])
    assert found.wrong == 3
    assert "it flatters" in found.note
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"val_{n}.png" for n in ("roc", "pr", "reliability", "confusion", "scores")}


def test_curves_that_are_undefined_are_not_drawn(of_three: Bundle, tmp_path: Path) -> None:
    probabilities = np.full((4, 3), 1 / 3, dtype=np.float32)
    dataset, part = _measured(of_three, "test", np.zeros(4, dtype=np.int64), probabilities)
    pixels = np.zeros((4, 1, 8, 8), dtype=np.uint8)
    found = section(of_three, dataset, pixels, part, tmp_path)
    assert len(found.figures) == 3
    assert found.mistakes == []
    assert not (tmp_path / "test_roc.png").exists()
