"""A window from a graph, from receipts and from the reference says what the decision rule says."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from samples import make_sample

from pulmo.core.bundle import Bundle
from pulmo.core.decision import Decider
from pulmo.core.receipt import Receipt, packed
from pulmo.core.sample import of_outputs, of_receipts, of_reference
from pulmo.core.statistics import picture_statistics
from pulmo.core.wire import ModelName
from pulmo.errors import DataError, ModelError
from pulmo.inference.engine import load

LEVELS = np.array([10, 120, 128, 150, 250], dtype=np.uint8)


@pytest.fixture
def pixels() -> np.ndarray:
    even = np.broadcast_to(LEVELS[:, None, None, None], (5, 1, 16, 16)).copy()
    half = even[-1:].copy()
    half[:, :, :8] = 0
    return np.concatenate([even, half])


def receipt(bundle: Bundle, **changes: object) -> Receipt:
    values = {
        "id": uuid.uuid4().hex,
        "at": datetime.now(UTC),
        "model": ModelName(name="toy", digest=bundle.info.model_digest),
        "input_sha256": "1" * 64,
        "pixels_sha256": "2" * 64,
        "prediction": "BRIGHT",
        "probability": 0.75,
        "probabilities": {"BRIGHT": 0.75, "DARK": 0.25},
        "decision": "accept",
        **changes,
    }
    return Receipt.model_validate(values)


def test_a_sample_of_outputs_agrees_with_the_decision_rule(
    toy_bundle: Bundle, pixels: np.ndarray
) -> None:
    outputs = load(toy_bundle)(pixels)
    sample = of_outputs(toy_bundle, outputs, picture_statistics(pixels))
    answers = Decider(toy_bundle.info.specification, toy_bundle.reference()["embeddings"]).answers(
        outputs
    )
    assert sample.outlying is not None
    assert sample.outlying.tolist() == [one.label is None for one in answers]
    assert sample.referred.tolist() == [one.decision == "refer" for one in answers]
    known = [one.class_index for one in answers if one.class_index is not None]
    assert sample.decided[~sample.outlying].tolist() == known
    assert sample.outlying.tolist() == [False] * 5 + [True]
    assert sample.referred.tolist() == [False, False, True, False, False, True]
    assert sample.score.tolist() == pytest.approx(outputs.probabilities[:, 1].tolist())
    assert set(sample.statistics) == {"brightness", "contrast", "dark", "bright", "sharpness"}
    assert len(sample.only(np.array([0, 2]))) == 2
    assert len(sample.only(sample.outlying)) == 1


def test_a_sample_of_receipts_agrees_with_that_of_outputs(
    toy_bundle: Bundle, pixels: np.ndarray
) -> None:
    outputs = load(toy_bundle)(pixels)
    statistics = picture_statistics(pixels)
    direct = of_outputs(toy_bundle, outputs, statistics)
    assert outputs.embedding is not None
    assert direct.outlying is not None
    spec = toy_bundle.info.specification
    receipts = [
        receipt(
            toy_bundle,
            prediction=None if direct.outlying[i] else spec.classes[direct.decided[i]],
            probabilities=dict(
                zip(spec.classes, map(float, outputs.probabilities[i]), strict=True)
            ),
            embedding=packed(outputs.embedding[i]),
            statistics={name: float(value[i]) for name, value in statistics.items()},
        )
        for i in range(len(pixels))
    ]
    logged = of_receipts(spec, receipts)
    for name in ("probabilities", "score", "decided", "referred", "outlying", "embeddings"):
        assert np.array_equal(getattr(logged, name), getattr(direct, name)), name
    assert {k: v.tolist() for k, v in logged.statistics.items()} == {
        k: v.tolist() for k, v in direct.statistics.items()
    }


def test_receipts_that_keep_less_give_less(toy_bundle: Bundle) -> None:
    spec = toy_bundle.info.specification
    vector = packed(np.ones(16, dtype=np.float32))
    full = receipt(toy_bundle, embedding=vector, statistics={"brightness": 0.5, "new": 1.0})
    other = receipt(toy_bundle, embedding=vector, statistics={"brightness": 0.4})
    found = of_receipts(spec, [full, other])
    assert found.embeddings is not None
    assert list(found.statistics) == ["brightness"]
    found = of_receipts(spec, [full, receipt(toy_bundle)])
    assert (found.embeddings, dict(found.statistics)) == (None, {})
    assert len(of_receipts(spec, [])) == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"probabilities": {"BRIGHT": 1.0}}, "does not know the class 'DARK'"),
        ({"embedding": packed(np.ones(3, dtype=np.float32))}, "several lengths"),
        ({"embedding": packed(np.full(16, np.nan, dtype=np.float32))}, "not all finite"),
    ],
)
def test_damaged_receipts_are_refused(
    toy_bundle: Bundle, changes: dict[str, object], told: str
) -> None:
    sound = receipt(toy_bundle, embedding=packed(np.ones(16, dtype=np.float32)))
    with pytest.raises(DataError, match=told):
        of_receipts(toy_bundle.info.specification, [sound, receipt(toy_bundle, **changes)])


def test_values_that_are_missing_or_not_finite_are_refused() -> None:
    sample = make_sample(30, 0)
    with pytest.raises(DataError, match="not as many"):
        replace(sample, statistics={"brightness": np.zeros(29)})
    with pytest.raises(DataError, match="not all finite"):
        replace(sample, statistics={"brightness": np.full(30, np.inf)})


def test_the_reference_is_the_bundle_s(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "plain")
    found = of_reference(bundle)
    assert (len(found), dict(found.statistics)) == (40, {})
    assert found.outlying is not None
    assert 1 <= found.outlying.sum() <= 3  # the limit leaves a share of 0.05 out
    assert found.patients is not None
    assert found.patients.tolist() == list(range(40))
    assert found.labels is not None
    bare = make_bundle(tmp_path / "bare", outliers=None)
    assert of_reference(bare).outlying is None
    assert of_receipts(bare.info.specification, [receipt(bare)]).outlying is None


def test_a_damaged_reference_is_the_model_s_fault(
    make_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    arrays = {**bundle.reference(), "stat_dark": np.full(40, np.nan, dtype=np.float32)}
    monkeypatch.setattr(Bundle, "reference", lambda self: arrays)
    with pytest.raises(ModelError, match="reference is damaged"):
        of_reference(bundle)
