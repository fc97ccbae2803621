"""A training is told as it goes, and comes out the same whoever is told."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb_offline

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import WEIGHTS, Bundle, file_digest
from pulmo.jobs import bundling
from pulmo.jobs.data import prepare
from pulmo.jobs.tracking import drawn, figures
from pulmo.jobs.train import Trained, resume, train
from pulmo.wiring import open_tracker

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "evaluate.resamples=100",
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it itself: it is put back
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    if sdk := sys.modules.get("wandb"):
        sdk.teardown()  # it reads the environment once


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(compose(TINY), folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Trained:
    return train(compose((*TINY, f"run.dir={tmp_path_factory.mktemp('plain')}/run")), data_dir)


def tracked(kind: str, folder: Path) -> Config:
    return compose((*TINY, f"run.dir={folder}/run", f"tracking={kind}"))


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["tracking"]
    return found


def same(one: Bundle, other: Bundle) -> bool:
    weights = file_digest(one.path / WEIGHTS) == file_digest(other.path / WEIGHTS)
    return weights and one.info.model_digest == other.info.model_digest


def test_wandb_is_told_everything_and_changes_nothing(
    plain: Trained, data_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="the group `wandb` is not installed")
    config = tracked("wandb", tmp_path)
    trained = train(config, data_dir, open_tracker(config.tracking))
    run, info = trained.run_dir, trained.bundle.info
    assert same(trained.bundle, plain.bundle)
    assert (run / "metrics.csv").read_bytes() == (plain.run_dir / "metrics.csv").read_bytes()
    (kept,) = (run / "wandb").glob("offline-run-*")
    assert trained.seen_at == f"uv run wandb sync {kept}"
    assert told(run) == {"kind": "wandb", "id": kept.name[-8:], "where": trained.seen_at}
    rows = wandb_offline.history(run)
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    table = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert losses == pytest.approx([float(row[3]) for row in table], rel=1e-6)
    (last,) = [row for row in rows if "val/auroc" in row]
    assert last["val/auroc"] == info.metrics["val"]["auroc"].value
    described = wandb_offline.config(run)
    assert described["model_digest"] == info.model_digest
    assert described["origin"]["data_digest"] == info.lineage.data_digest
    assert described["trainer"]["max_epochs"] == 2
    images = {p.name.rpartition("_")[0].rpartition("_")[0] for p in kept.rglob("media/**/*.png")}
    assert images == {"training", "roc", "precision_recall", "reliability"}
    card = (trained.bundle.path / "README.md").read_text()
    assert (kept / "files/README.md").read_text() == card
    assert wandb_offline.exit_code(run) == 0


def test_mlflow_is_told_everything_and_changes_nothing(
    plain: Trained, data_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow", reason="the group `mlflow` is not installed")
    from mlflow.tracking import MlflowClient

    config = tracked("mlflow", tmp_path)
    trained = train(config, data_dir, open_tracker(config.tracking))
    assert same(trained.bundle, plain.bundle)
    run = MlflowClient((tmp_path / "mlflow").as_uri()).get_run(told(trained.run_dir)["id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model_digest"] == trained.bundle.info.model_digest
    assert run.data.params["recipe/kind"] == "finetune"
    assert {k: v for k, v in run.data.metrics.items() if "/" in k} == figures(trained.bundle)


def test_a_run_that_was_stopped_goes_on_under_its_id(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the group `mlflow` is not installed")
    from mlflow.tracking import MlflowClient

    config, client = tracked("mlflow", tmp_path), MlflowClient

    def stop(*_: object, **__: object) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(bundling, "write", stop)
        with pytest.raises(SystemExit):
            train(config, data_dir, open_tracker(config.tracking))
    store, begun = (tmp_path / "mlflow").as_uri(), told(tmp_path / "run")["id"]
    assert client(store).get_run(begun).info.status == "KILLED"
    resume(config, data_dir, open_tracker(config.tracking))
    assert told(tmp_path / "run")["id"] == begun
    assert client(store).get_run(begun).info.status == "FINISHED"


def test_a_training_outlives_a_service_that_is_not_there(
    plain: Trained, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the group `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pass-word@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = tracked("mlflow", tmp_path)
    trained = train(config, data_dir, open_tracker(config.tracking))
    assert same(trained.bundle, plain.bundle)
    said = (trained.run_dir / "run.log").read_text()
    assert "MLflow did not take the run" in said
    assert "not told to MLflow: the run, its configuration, metrics, plots" in said
    assert "pass-word" not in said
    assert "tracking" not in json.loads((trained.run_dir / "run.json").read_text())


def test_a_model_of_many_classes_is_drawn_without_what_it_has_not(plain: Trained) -> None:
    bundle = plain.bundle
    fewer = bundle.info.model_copy(update={"curves": {}})
    assert set(
        drawn(plain.run_dir, Bundle(path=bundle.path, digest=bundle.digest, info=fewer))
    ) == {"training"}
