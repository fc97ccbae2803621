"""Sections of the report for many classes, for validation data, for a class that is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core.bundle import Bundle, DecisionSpec
from pulmo.core.decision import Decider, Outputs
from pulmo.core.preprocess import Pixels
from pulmo.data.manifest import DataSet, Manifest, Row
from pulmo.jobs.measurement import Measured, Subject, measure_split
from pulmo.jobs.sections import section

CLASSES = ("a", "b", "c")
DRAWN = ("roc", "pr", "reliability", "confusion", "scores", "refer")


class _Known:
    """An engine that knows what to say of picture i by its first pixel, which is i."""

    def __init__(self, probabilities: NDArray[np.float32]) -> None:
        self.probabilities = probabilities

    def __call__(self, pixels: Pixels) -> Outputs:
        said = self.probabilities[pixels[:, 0, 0, 0]]
        saliency = np.ones((*said.shape, 2, 2), dtype=np.float32)
        return Outputs(said, np.log(said), saliency=saliency)


def _measured(
    bundle: Bundle, split: str, labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> tuple[Subject, Measured]:
    spec = bundle.info.specification
    rows = tuple(
        Row(f"{split}/{i}.png", spec.classes[k], split, f"p{i}", "0" * 64, f"{i:064x}")
        for i, k in enumerate(labels)
    )
    pixels = np.zeros((len(rows), 1, 8, 8), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(rows))
    dataset = DataSet(Path(), Path(), Manifest("toy", spec.classes, 1, rows))
    engine: Any = _Known(probabilities)
    subject = Subject(bundle, engine, Decider(spec, None), dataset, pixels)
    return subject, measure_split(subject, split, EvaluateConfig(resamples=100))


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
    subject, part = _measured(of_three, "val", np.array([0, 2, 1, 0]), probabilities)
    found = section(subject, part, 0.95, tmp_path)
    told = [(one.truth, one.answer, one.decision) for one in found.mistakes]
    assert told == [
        ("a", "c", "answered"),
        ("c", "b", "answered"),
        ("b", "c", "referred to a human"),
    ]
    assert found.mistakes[0].probability == pytest.approx(0.9)
    assert found.mistakes[0].pixels[0, 0, 0] == 3
    assert found.mistakes[0].overlay is not None
    assert found.mistakes[0].overlay.size == (8, 8)
    assert found.wrong == 3
    assert "it flatters" in found.note
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"val_{n}.png" for n in DRAWN}


def test_curves_that_are_undefined_are_not_drawn(of_three: Bundle, tmp_path: Path) -> None:
    probabilities = np.full((4, 3), 1 / 3, dtype=np.float32)
    subject, part = _measured(of_three, "test", np.zeros(4, dtype=np.int64), probabilities)
    found = section(subject, part, 0.95, tmp_path)
    assert len(found.figures) == 4
    assert found.mistakes == []
    assert not (tmp_path / "test_roc.png").exists()
