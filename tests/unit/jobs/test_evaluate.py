"""Evaluation of a real toy bundle on a real toy data set, down to every file it writes."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.schema import DataConfig, EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Lineage, sha256
from pulmo.core.decision import Outputs
from pulmo.core.preprocess import decode, pixel_digest
from pulmo.data.dealing import Picture, build
from pulmo.data.manifest import DataSet, Manifest, Row, store
from pulmo.errors import DataError
from pulmo.jobs.evaluate import Evaluation, evaluate
from pulmo.jobs.measurement import measure

CONFIG = EvaluateConfig(resamples=100, robustness=10)
FILES = {
    "metrics.json", "predictions.csv", "report.html", "model_card.md",
    "test_roc.png", "test_pr.png", "test_reliability.png", "test_confusion.png", "test_scores.png",
    "test_refer.png", "robustness_auroc.png", "robustness_balanced_accuracy.png",
    "robustness_accepted.png",
}  # fmt: skip


def _picture(root: Path, name: str, pixels: np.ndarray) -> Picture:
    label = name.split("/")[1]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    return Picture(name, label, "test", sha256(data), pixel_digest(decode(data, 1)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """28 grey pictures of 14 patients, two of them mislabelled, and a chequered one."""
    root = tmp_path_factory.mktemp("pictures")
    pictures = []
    for i, level in enumerate(range(20, 245, 8)[:28]):
        label = "BRIGHT" if level >= 128 else "DARK"
        if i in (2, 20):
            label = "DARK" if label == "BRIGHT" else "BRIGHT"
        grey = np.full((16, 16), level, dtype=np.uint8)
        pictures.append(_picture(root, f"test/{label}/p{i // 2}_{i}.png", grey))
    squares = (np.indices((16, 16)) // 4).sum(axis=0) % 2 * 255
    pictures.append(_picture(root, "test/BRIGHT/p99_0.png", squares.astype(np.uint8)))
    config = DataConfig(name="toy", source="folder", patient=r"^(p\d+)_", intended_use="tests")
    manifest = build(config, ("BRIGHT", "DARK"), pictures)
    return store(manifest, root, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def found(
    toy_bundle: Bundle, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    return evaluate(toy_bundle, dataset, ("test",), tmp_path_factory.mktemp("out") / "deep", CONFIG)


def test_everything_is_written(found: Evaluation) -> None:
    assert {path.name for path in found.out.iterdir()} == FILES


def test_figures_are_those_of_the_toy_model(found: Evaluation) -> None:
    part = found.splits[0]
    values = {name: estimate.value for name, estimate in part.metrics.items()}
    assert part.counts == {
        "pictures": 29, "patients": 15, "referred": 3, "out of distribution": 1
    }  # fmt: skip
    assert values["accuracy"] == pytest.approx(27 / 29)
    assert values["accepted"] == pytest.approx(26 / 29)
    assert values["accuracy_accepted"] == pytest.approx(24 / 26)
    assert values["auroc"] == metrics.auroc(part.labels, part.probabilities, 1)
    assert found.metrics == {"test": part.metrics}
    assert part.seen == 0


def test_metrics_json_says_the_same(found: Evaluation, toy_bundle: Bundle) -> None:
    document = json.loads((found.out / "metrics.json").read_text())
    assert document["model_digest"] == toy_bundle.info.model_digest
    assert document["bundle_digest"] == toy_bundle.digest
    test = document["splits"]["test"]
    assert test["metrics"]["auroc"] == found.metrics["test"]["auroc"].model_dump()
    assert test["counts"]["pictures"] == 29
    assert sum(map(sum, test["confusion"])) == 29
    assert set(test["curves"]) == {
        "roc", "pr", "reliability", "reliability_without_temperature", "refer"
    }  # fmt: skip
    assert document == found.document


def test_predictions_hold_one_line_a_picture(found: Evaluation) -> None:
    with (found.out / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 29
    by_path = {row["path"]: row for row in rows}
    strange = by_path["test/BRIGHT/p99_0.png"]
    assert (strange["answer"], strange["decision"]) == ("", "refer")
    assert "unlike" in strange["reasons"]
    dark = by_path["test/DARK/p0_0.png"]
    assert (dark["label"], dark["answer"], dark["decision"]) == ("DARK", "DARK", "accept")
    assert float(dark["p_DARK"]) == pytest.approx(float(dark["probability"]))
    assert float(dark["p_DARK"]) + float(dark["p_BRIGHT"]) == pytest.approx(1, abs=1e-5)


def test_the_report_shows_figures_mistakes_and_origin(
    found: Evaluation, toy_bundle: Bundle
) -> None:
    page = (found.out / "report.html").read_text(encoding="utf-8")
    assert toy_bundle.info.model_digest in page
    assert page.count("data:image/png;base64,") == 9
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "not the state of the data" in page
    assert "seen none of these pictures" in page
    assert "not answered: out of distribution" in page or "referred" in page


def test_a_second_run_writes_the_same_bytes(
    found: Evaluation, toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    evaluate(toy_bundle, dataset, ("test",), tmp_path, CONFIG)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (found.out / name).read_bytes(), name


def test_a_split_without_pictures_is_refused(
    toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no pictures in 'gate'"):
        evaluate(toy_bundle, dataset, ("gate",), tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_pictures_of_another_kind_are_refused(
    toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    rows = tuple(
        Row(r.path, "CAT", r.split, r.patient, r.sha256, r.pixels) for r in dataset.manifest.rows
    )
    other = DataSet(tmp_path, dataset.root, Manifest("cats", ("CAT", "DOG"), 1, rows))
    with pytest.raises(DataError, match="shows CAT; the model knows DARK, BRIGHT"):
        evaluate(toy_bundle, other, ("test",), tmp_path / "out", CONFIG)


def test_what_the_model_has_seen_is_said(
    toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    zero = "0" * 64  # the one member of the toy bundle
    first, *others = dataset.manifest.rows
    rows = (Row(first.path, first.label, "test", first.patient, first.sha256, zero), *others)
    manifest = Manifest("toy", dataset.manifest.classes, 1, rows)
    origin = toy_bundle.info.lineage.model_dump()
    lineage = Lineage.model_validate({**origin, "data_digest": manifest.digest})
    info = toy_bundle.info.model_copy(update={"lineage": lineage})
    bundle = toy_bundle.model_copy(update={"info": info})
    seen = evaluate(bundle, DataSet(tmp_path, dataset.root, manifest), ("test",), tmp_path, CONFIG)
    assert seen.splits[0].seen == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "has seen 1 of these pictures" in page
    assert "not the state of the data" not in page


def test_measure_judges_many_classes_too(toy_bundle: Bundle) -> None:
    decision = {"rule": "argmax", "refer_low": 0, "refer_high": 0.6}
    changed = {
        **toy_bundle.info.specification.model_dump(),
        "classes": ("a", "b", "c"),
        "decision": decision,
        "outliers": None,
    }
    specification = type(toy_bundle.info.specification).model_validate(changed)
    rows = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]]
    probabilities = np.array(rows, dtype=np.float32)
    labels = np.array([0, 1, 2, 2])
    outputs = Outputs(probabilities, np.log(probabilities))
    found, curves = measure(specification, None, outputs, labels, list("pqrs"), CONFIG, 0)
    assert found["accuracy"].value == pytest.approx(3 / 4)
    assert found["accepted"].value == pytest.approx(2 / 4)
    assert found["accuracy_accepted"].value == 1.0
    assert set(curves) == {"roc", "pr", "reliability"}


def test_corruption_is_measured_from_none_to_all(found: Evaluation) -> None:
    robust = found.document["robustness"]
    assert robust["pictures"] == 10
    assert set(robust["corruptions"]["noise"]) == {"1", "2", "3", "4", "5"}
    clean, worst = robust["unchanged"], robust["corruptions"]["pixelate"]["5"]
    assert worst["auroc"] == clean["auroc"]  # what is evenly grey stays so
    dark = robust["corruptions"]["brightness"]["5"]["balanced_accuracy"]["value"]
    assert dark <= clean["balanced_accuracy"]["value"]


def test_the_card_holds_the_figures_of_the_test_split(found: Evaluation) -> None:
    card = (found.out / "model_card.md").read_text(encoding="utf-8")
    accuracy = found.metrics["test"]["accuracy"]
    assert f"| Accuracy | {accuracy.value:.3f} | {accuracy.low:.3f} to" in card
    assert "## Evaluation on test" in card
    assert "| AUROC under | unchanged | severity 1 |" in card
    assert "External" not in card


def test_another_data_set_is_measured_whole_with_its_slices(
    toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    rows = tuple(
        replace(row, split=split, slices=(("sex", "MF"[i % 2]),))
        for i, (row, split) in enumerate(
            zip(dataset.manifest.rows, ["train", "gate", "val", *["test"] * 26], strict=True)
        )
    )
    manifest = Manifest("abroad", dataset.manifest.classes, 1, rows)
    other = DataSet(tmp_path / "data", dataset.root, manifest)
    other.folder.mkdir()
    config = EvaluateConfig(resamples=100, robustness=0)
    found = evaluate(toy_bundle, dataset, ("test",), tmp_path / "out", config, other)
    assert found.document["external"]["data"]["name"] == "abroad"
    assert found.document["external"]["counts"]["pictures"] == 28  # all but the gate split
    slices = found.document["external"]["slices"]
    assert [(one["attribute"], one["value"]) for one in slices] == [("sex", "F"), ("sex", "M")]
    assert sum(sum(one["counts"].values()) for one in slices) == 28
    assert set(found.metrics) == {"test", "abroad"}
    assert "robustness" not in found.document
    page = (found.out / "report.html").read_text(encoding="utf-8")
    assert "External: abroad" in page
    assert "sex: F" in page
    card = (found.out / "model_card.md").read_text(encoding="utf-8")
    assert "## External validation: abroad" in card
    assert "| sex: M | 15 |" in card


def test_the_models_own_data_set_is_no_external_one(
    toy_bundle: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the model was made from the data set toy"):
        evaluate(toy_bundle, dataset, ("test",), tmp_path, CONFIG, dataset)
