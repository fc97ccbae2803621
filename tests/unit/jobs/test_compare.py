"""Two models on the same pictures: what differs, what does not, and what may not be compared."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.schema import EvaluateConfig
from pulmo.core.bundle import Bundle, DecisionSpec, sha256
from pulmo.core.preprocess import decode, pixel_digest
from pulmo.data.manifest import DataSet, Manifest, Row
from pulmo.errors import ModelError, RefusedError
from pulmo.jobs.compare import compare

CONFIG = EvaluateConfig(resamples=200)
NAMES = ("toy:v1", "<b>toy:v0")


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """40 evenly grey pictures of 20 patients; BRIGHT from 130 up but for two of them."""
    rows = []
    for i, level in enumerate(range(16, 256, 6)):
        label = "BRIGHT" if (level >= 130) != (i in (12, 30)) else "DARK"
        path = tmp_path / f"p{i // 2}_{i}.png"
        Image.new("L", (16, 16), level).save(path)
        data = path.read_bytes()
        digests = sha256(data), pixel_digest(decode(data, 1))
        rows.append(Row(path.name, label, "test", f"p{i // 2}", *digests))
    (tmp_path / "data").mkdir()
    return DataSet(tmp_path / "data", tmp_path, Manifest("toy", ("BRIGHT", "DARK"), 1, tuple(rows)))


def _decision(threshold: float, positive: str = "BRIGHT") -> DecisionSpec:
    return DecisionSpec(
        rule="threshold", positive=positive, threshold=threshold, refer_low=0.4, refer_high=0.6
    )


def test_a_later_threshold_misses_more_and_ranks_the_same(
    make_bundle: Callable[..., Bundle], dataset: DataSet, tmp_path: Path
) -> None:
    first = make_bundle(tmp_path / "a")
    second = make_bundle(tmp_path / "b", decision=_decision(0.95))
    out = tmp_path / "out"
    found = compare(NAMES, (first, second), dataset, "test", out, CONFIG)
    assert found.differences["auroc"].value == 0
    assert (found.differences["auroc"].low, found.differences["auroc"].high) == (0, 0)
    a, b = (part.metrics["sensitivity"].value for part in found.parts)
    assert a is not None
    assert b is not None
    assert found.differences["sensitivity"].value == pytest.approx(a - b)
    assert found.differences["sensitivity"].low is not None
    assert found.differences["sensitivity"].low > 0
    assert found.only_b == sum(r.label == "DARK" for r in _apart(found, dataset))
    assert found.only_a + found.only_b == len(found.apart) > 3
    assert found.p < 0.2
    assert found.delong is not None
    assert found.delong.value == 0
    document = json.loads((out / "comparison.json").read_text())
    assert document["mcnemar"]["only_A_right"] == found.only_a
    assert document["models"]["B"]["model_digest"] == second.info.model_digest
    assert len(document["disagreements"]) == len(found.apart)
    gaps = [abs(one["A"]["probability"] - (1 - one["B"]["probability"]))
            for one in document["disagreements"]]  # fmt: skip
    assert max(gaps) < 1e-5  # both read the same score and decide otherwise
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == min(24, len(found.apart))
    assert "<b>toy:v0" not in page
    assert "clear of 0" in page


def _apart(found: object, dataset: DataSet) -> list[Row]:
    return [dataset.manifest.rows[i] for i in found.apart]  # type: ignore[attr-defined]


def test_classes_in_another_order_are_brought_together(
    make_bundle: Callable[..., Bundle], dataset: DataSet, tmp_path: Path
) -> None:
    first = make_bundle(tmp_path / "a")
    found = compare(NAMES, (first, first), dataset, "test", tmp_path / "out", CONFIG)
    assert {one.value for one in found.differences.values()} == {0}
    assert (found.p, len(found.apart)) == (1.0, 0)
    assert "Nowhere" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    turned = make_bundle(
        tmp_path / "b", classes=("BRIGHT", "DARK"), decision=_decision(0.5, "BRIGHT")
    )  # the graph still says dark first: this model is wrong about everything
    found = compare(NAMES, (first, turned), dataset, "test", tmp_path / "out", CONFIG)
    assert len(found.apart) == 40
    np.testing.assert_array_equal(found.parts[0].labels, found.parts[1].labels)
    auroc = [part.metrics["auroc"].value for part in found.parts]
    assert sum(filter(None, auroc)) == pytest.approx(1)
    assert found.differences["accuracy"].value == pytest.approx(38 / 40 - 2 / 40)


def test_what_either_has_seen_is_not_compared_on(
    make_bundle: Callable[..., Bundle], dataset: DataSet, tmp_path: Path
) -> None:
    first, *others = dataset.manifest.rows
    rows = (replace(first, pixels="0" * 64), *others)  # the one member of a toy bundle
    known = replace(dataset, manifest=replace(dataset.manifest, rows=rows))
    bundle = make_bundle(tmp_path / "a")
    with pytest.raises(RefusedError, match="toy:v1 has seen 1 of the 40 pictures"):
        compare(NAMES, (bundle, bundle), known, "test", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_models_of_other_questions_are_not_compared(
    make_bundle: Callable[..., Bundle], dataset: DataSet, tmp_path: Path
) -> None:
    first = make_bundle(tmp_path / "a")
    other = make_bundle(tmp_path / "b", classes=("CAT", "DOG"), decision=_decision(0.5, "DOG"))
    with pytest.raises(ModelError, match="know other classes: DARK, BRIGHT and CAT, DOG"):
        compare(NAMES, (first, other), dataset, "test", tmp_path / "out", CONFIG)
    other = make_bundle(tmp_path / "c", decision=_decision(0.5, "DARK"))
    with pytest.raises(ModelError, match="looks for BRIGHT and the other for DARK"):
        compare(NAMES, (first, other), dataset, "test", tmp_path / "out", CONFIG)
