"""How recipes are judged: clusters left out, several seeds, and the page about both."""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pulmo.config.compose import compose
from pulmo.core.bundle import Estimate
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet, Manifest, Row
from pulmo.jobs.data import prepare
from pulmo.jobs.fit import fit
from pulmo.jobs.train import input_spec

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import clusters, grouping, quality  # noqa: E402 - beside the package, not in it
from benchmarks.quality_page import draw, page  # noqa: E402
from benchmarks.stored import changing, read  # noqa: E402

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=240",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.accelerator=cpu",
)


def fold(number: int, auroc: float, ill: int = 60) -> clusters.Fold:
    held = {"NORMAL": 30, "PNEUMONIA": ill}
    return clusters.Fold(number, held, held, held, 0.99, auroc, 0.9, 0.8, 0.95, 12.0)


def data_set(*rows: tuple[str, str, str]) -> DataSet:
    """Of (patient, split, label)."""
    made = tuple(
        Row(f"{i}.png", label, split, patient, "0" * 64, "0" * 64)
        for i, (patient, split, label) in enumerate(rows)
    )
    manifest = Manifest("pictures", ("NORMAL", "PNEUMONIA"), 1, made)
    return DataSet(Path("folder"), Path("root"), manifest)


def test_a_patient_is_the_mean_of_its_pictures() -> None:
    seen = np.array([[1, 5], [4, 0], [3, 7]], dtype=np.float32)
    names, means = grouping.by_patient(["b", "a", "b"], seen)
    assert names.tolist() == ["a", "b"]
    assert means.tolist() == [[4, 0], [2, 6]]


def test_a_cluster_is_held_out_and_nothing_of_gate_and_test_is_left() -> None:
    given = data_set(
        ("a", "train", "NORMAL"),
        ("b", "train", "NORMAL"),
        ("b", "val", "NORMAL"),
        ("c", "val", "NORMAL"),
        ("d", "gate", "NORMAL"),
        ("e", "test", "NORMAL"),
    )
    left = grouping.without(given, {"a": 0, "b": 1, "c": 0}, 1)
    splits = [row.split for row in left.manifest.rows]
    assert splits == ["train", "held", "held", "val", "excluded", "excluded"]


def test_decisions_on_held_out_pictures_follow_validation_alone() -> None:
    given = data_set(("a", "val", "NORMAL"))
    scores = np.array([-3.0, -2.0, 2.0, 3.0])
    logits = np.stack([-scores, scores], axis=1)
    truth = np.array([0, 0, 1, 1])
    shifted = logits + np.array([0.0, 20.0])  # everything looks ill, in the right order
    config = compose(("data=phantom",))
    told = clusters.figures(config, (logits, truth), (shifted, truth), given)
    assert (told["val_auroc"], told["auroc"]) == (1, 1)
    assert (told["accuracy"], told["sensitivity"], told["specificity"]) == (0.5, 1, 0)


def test_folds_with_too_few_of_a_class_do_not_count() -> None:
    told = clusters.summary([fold(0, 0.98), fold(1, 0.96), fold(2, 0.1, ill=19)])
    assert told["auroc"] == pytest.approx(0.97)
    assert told["worst"] == 0.96
    assert [one["counts"] for one in told["folds"]] == [True, True, False]
    assert "not counted" in clusters.table([fold(2, 0.1, ill=19)])
    assert clusters.summary([fold(0, 0.9, ill=1)])["auroc"] is None


def test_an_experiment_takes_the_place_of_the_one_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "results/experiments.json"
    clusters.keep({"name": "one", "auroc": 0.9, "why": "a try"}, path)
    clusters.keep({"name": "two", "auroc": 0.8}, path)
    clusters.say("one", {"kept": True}, path)
    clusters.keep({"name": "one", "auroc": 0.95}, path)
    first, second = read(path)["experiments"]
    assert first == {"name": "one", "auroc": 0.95, "why": "a try", "kept": True}
    assert second == {"name": "two", "auroc": 0.8, "why": "", "kept": None}
    with pytest.raises(SystemExit, match="keeps no experiment 'three'"):
        clusters.say("three", {}, path)
    assert len(read(path)["experiments"]) == 2


def test_nothing_is_lost_where_several_write(tmp_path: Path) -> None:
    def add(number: int) -> None:
        with changing(tmp_path / "results.json") as known:
            known[str(number)] = "x" * number * 100

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(read(tmp_path / "results.json")) == 40


def test_clusters_are_left_out_of_a_real_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="k-means is in the group bench")
    config = compose(TINY)
    monkeypatch.setenv("PULMO_DATA_DIR", str(tmp_path))
    prepared = prepare(config, tmp_path).dataset
    dataset, sizes, folds = clusters.run(config, [0, 3])
    known = grouping.clusters(config, dataset)
    rows = [row for row in prepared.manifest.rows if row.split in ("train", "val")]
    assert set(known) == {row.patient for row in rows}
    assert set(known.values()) == set(range(grouping.CLUSTERS))
    for one in folds:
        held = sum(known[row.patient] == one.number for row in rows)
        assert one.held == sizes[one.number]
        assert sum(one.held.values()) == held
        assert sum(one.train.values()) + sum(one.val.values()) == len(rows) - held
        assert one.auroc is not None
    assert next(iter(dataset.folder.glob("clusters-*.npz"))).is_file()


def test_what_is_made_once_for_all_folds_is_what_each_would_make(tmp_path: Path) -> None:
    config = compose((*TINY, "recipe=probe", "recipe.views=2", "recipe.augment.rotate=20"))
    dataset = prepare(config, tmp_path / "data").dataset
    pixels = open_pixels(dataset, input_spec(config))
    rows = dataset.manifest.rows
    once = clusters.Once(np.array([i for i, r in enumerate(rows) if r.split in ("train", "val")]))
    patients = sorted({row.patient for row in rows})
    left = grouping.without(dataset, {name: i % 3 for i, name in enumerate(patients)}, 0)
    heads = []
    for name in ("apart", "first", "second"):
        (tmp_path / name).mkdir()
        with nullcontext() if name == "apart" else once.instead():
            network = fit(config, left, pixels, tmp_path / name)
        heads.append(network.head.weight.detach().numpy())
    assert np.allclose(heads[0], heads[1], atol=1e-5)
    assert np.array_equal(heads[1], heads[2])
    assert once.owed > 0


def estimate(value: float) -> dict[str, Any]:
    return Estimate(value=value, low=value - 0.02, high=value + 0.01).model_dump()


def evaluation(auroc: float) -> dict[str, Any]:
    """What `evaluate` writes, as far as it is kept."""
    names = {name for kept in quality.KEPT.values() for name in kept}
    measured = {**{name: estimate(0.9) for name in names}, "auroc": estimate(auroc)}
    refer = {"referred": [0.0, 0.04, 0.11, 0.2], "accuracy": [0.9, 0.91, 0.925, 0.95]}
    split = {"metrics": measured, "counts": {"pictures": 300}, "curves": {"refer": refer}}
    return {
        "data": {"name": "phantom", "digest": "0" * 64},
        "bundle_digest": "1" * 64,
        "model_digest": "2" * 64,
        "splits": {"val": split, "test": split},
    }


def seeds(*values: float) -> list[dict[str, Any]]:
    return [{**quality.figures(evaluation(one)), "seconds": 200.0} for one in values]


def test_what_a_tenth_referred_gains_is_told_in_points() -> None:
    told = quality.figures(evaluation(0.95))
    assert (told["gain"], told["referred"]) == (2.5, 0.11)
    assert told["test"]["auroc"] == estimate(0.95)
    assert told["test"]["pictures"] == 300


def test_the_summary_of_seeds_has_mean_spread_and_bounds() -> None:
    told = quality.summary(seeds(0.94, 0.96))["test auroc"]
    assert told["mean"] == pytest.approx(0.95)
    assert told["sd"] == pytest.approx(0.02 / 2**0.5)
    assert (told["low"], told["high"]) == (0.94, 0.96)
    assert told["bounds"] == pytest.approx([0.93, 0.96])
    unknown = [{**one, "seconds": None} for one in seeds(0.9)]
    assert "seconds" not in quality.summary(unknown)


def trained(folder: Path, digest: str) -> Path:
    folder.mkdir(parents=True)
    document = {"status": "done", "model_digest": digest, "seed": 0}
    (folder / "run.json").write_text(json.dumps(document), "utf-8")
    return folder


def test_a_known_model_is_not_asked_about_the_test_again(tmp_path: Path) -> None:
    digest, recipe = "2" * 64, quality.Recipe("one", ())
    run = trained(tmp_path / "runs/one/0", digest)  # a bundle to measure is not even there
    results = tmp_path / "quality.json"
    known = {"at": "2026-01-01", "times": 1, **quality.figures(evaluation(0.95))}
    results.write_text(json.dumps({"opened": {digest: known}}), "utf-8")
    assert quality.measure(recipe, run, results, again=False) == known
    asked = argparse.Namespace(
        trained=tmp_path / "runs", results=results, again=False, runs=None, seeds=5
    )
    told = quality.judge(recipe, asked)
    assert told["summary"]["test auroc"]["mean"] == 0.95
    assert read(results)["recipes"]["one"]["seeds"][0]["model_digest"] == digest


def test_an_evaluation_that_was_not_kept_is_read_not_repeated(tmp_path: Path) -> None:
    run = trained(tmp_path / "one/0", "2" * 64)
    (run / "evaluation").mkdir()
    (run / "evaluation/metrics.json").write_text(json.dumps(evaluation(0.95)), "utf-8")
    results = tmp_path / "quality.json"
    told = quality.measure(quality.Recipe("one", ()), run, results, again=False)
    assert told["test"]["auroc"]["value"] == 0.95
    assert read(results)["opened"]["2" * 64]["times"] == 1


def test_runs_are_trained_once_and_with_the_same_overrides(tmp_path: Path) -> None:
    run = trained(tmp_path / "one/0", "2" * 64)
    (run / quality.TOOK).write_text('{"seconds": 3.0, "overrides": ["seed=1"]}', "utf-8")
    quality.train(quality.Recipe.of(["one", "seed=1"]), 0, run)
    with pytest.raises(SystemExit, match="choose another --runs"):
        quality.train(quality.Recipe.of(["one", "seed=2"]), 0, run)
    with pytest.raises(SystemExit, match="no finished run"):
        quality.runs_of(quality.Recipe("two", ()), tmp_path)
    with pytest.raises(SystemExit, match="names no folder"):
        quality.Recipe.of(["../one", ""])


def test_the_page_tells_experiments_and_goals(tmp_path: Path) -> None:
    known = {
        "name": "probe",
        "what": "recipe=probe",
        "why": "the default",
        "kept": False,
        "clusters": [{"NORMAL": 30, "PNEUMONIA": ill} for ill in (60, 60, 60, 60, 19)],
        **clusters.summary([fold(n, 0.975) for n in range(4)]),
    }
    part = {**known, "name": "part", "kept": None, **clusters.summary([fold(1, 0.98)])}
    found = seeds(0.98, 0.99)
    results = {
        "machine": {"cores": "2"},
        "opened": {"2" * 64: {**found[0], "times": 1}, "3" * 64: {**found[1], "times": 1}},
        "recipes": {
            "default": {"overrides": "", "seeds": found, "summary": quality.summary(found)}
        },
    }
    told = page({"experiments": [known, part]}, results)
    assert "| probe | `recipe=probe` | the default | **0.9750** | 0.9750 |" in told
    assert "| part | `recipe=probe` | the default | 0.9800 (clusters 1) |" in told
    assert "| 4 | 30 NORMAL, 19 PNEUMONIA |  |  |  |  | does not count |" in told
    assert "| Q1 | AUROC on the official test | default | 0.985 ± 0.007 (0.980 – 0.990) |" in told
    assert "| ≥ 0.93 | **not reached** |" in told
    assert "2 models were asked about the test, 300 pictures, each once." in told
    assert "has 624 pictures. The data set that was asked about here holds 300 of" in told
    draw(results, tmp_path / "images/quality.png")
    assert (tmp_path / "images/quality.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_figures_says_how_recipes_are_judged() -> None:
    told = page({}, {})
    assert "k-means" in told
    assert "## On the official test" not in told
