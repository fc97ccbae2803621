"""W&B's own SDK, offline: what it keeps for `wandb sync` is the run, also where nobody answers."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import wandb_offline
from PIL import Image

pytest.importorskip("wandb", reason="the group `wandb` is not installed")

import wandb
from wandb_server import ENTITY, Wandb, wandb_server

from pulmo.models import wandb_run
from pulmo.models.wandb_run import WandbRun

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    wandb.teardown()  # its SDK reads the environment once
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def told(service: WandbRun, folder: Path, status: str = "done") -> None:
    service.open(folder, None)
    service.configure({"seed": 3, "model": {"image_size": 32}})
    service.metrics({"val_loss": 0.25}, 4)
    service.picture("roc", png())
    service.text("README.md", "# a card")
    service.close(status)


def test_offline_the_run_lies_in_its_folder_for_wandb_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    folder.mkdir()
    service = WandbRun("shop")
    told(service, folder)
    (kept,) = (folder / "wandb").glob("offline-run-*")
    assert service.where == f"uv run wandb sync {kept}"
    assert service.id is None
    (run,) = [one.run for one in wandb_offline.records(folder) if one.HasField("run")]
    assert (run.project, run.display_name, run.job_type) == ("shop", "run", "train")
    rows = wandb_offline.history(folder)
    assert [row["val_loss"] for row in rows if "val_loss" in row] == [0.25]
    assert [row["trainer/global_step"] for row in rows if "val_loss" in row] == [4]
    assert wandb_offline.config(folder)["seed"] == 3
    assert wandb_offline.config(folder)["model"] == {"image_size": 32}
    assert (kept / "files/README.md").read_text() == "# a card"
    assert len(list((kept / "files/media/images").glob("roc*.png"))) == 1
    assert wandb_offline.exit_code(folder) == 0


def test_a_run_that_goes_on_has_the_same_id_and_tells_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    service = WandbRun("shop")
    service.open(tmp_path, "abcd1234")
    assert service.id == "abcd1234"
    service.close("stopped")
    assert wandb_offline.exit_code(tmp_path) == 1
    with pytest.raises(ConnectionError):
        service.metrics({"a": 1.0}, 0)


def test_where_nobody_answers_the_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    service = WandbRun("shop")
    told(service, tmp_path)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    assert service.where == f"uv run wandb sync {kept}"
    assert [row for row in wandb_offline.history(tmp_path) if row.get("val_loss") == 0.25]
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in everything


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    with wandb_server() as state:
        for name, value in state.environment().items():
            monkeypatch.setenv(name, value)
        yield state


def test_a_server_has_all_of_the_run_when_it_ends(server: Wandb, tmp_path: Path) -> None:
    service = WandbRun("pulmo")
    told(service, tmp_path)
    (run,) = server.runs.values()
    assert service.where == f"{server.address}/{ENTITY}/pulmo/runs/{run.name}"
    assert (run.project, run.display, run.job_type) == ("pulmo", tmp_path.name, "train")
    assert run.config["seed"]["value"] == 3
    assert [row["val_loss"] for row in run.history if "val_loss" in row] == [0.25]
    assert run.summary["val_loss"] == 0.25
    assert (run.finished, run.exit_code) == (True, 0)
    assert run.files["README.md"] == b"# a card"
    assert [name for name in run.files if name.startswith("media/images/roc")]
    assert "wandb-events.jsonl" in run.stream  # what it measures of the machine
    assert server.refused == []


def test_a_server_that_goes_away_in_the_middle_costs_nothing_but_the_sending(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_S", 2.0)
    service = WandbRun("pulmo")
    with wandb_server() as state:
        for name, value in state.environment().items():
            monkeypatch.setenv(name, value)
        service.open(tmp_path, None)
    service.metrics({"val_loss": 0.25}, 4)
    service.text("README.md", "# a card")
    with pytest.raises(TimeoutError):
        service.close("done")
    (kept,) = (tmp_path / "wandb").glob("run-*")
    assert service.where == f"uv run wandb sync {kept}"
