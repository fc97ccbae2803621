"""MLflow's own client with its own store of files: what was told is there to be read again."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mlflow", reason="the group `mlflow` is not installed")

from pulmo.models.mlflow_run import MlflowRun


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it itself: it is put back


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def told(service: MlflowRun, folder: Path, status: str = "done", known: str | None = None) -> str:
    service.open(folder, known)
    service.configure({"seed": 3, "model": {"image_size": 32}})
    service.metrics({"val_loss": 0.25}, 4)
    service.picture("roc", png())
    service.text("README.md", "# a card")
    number = service.id
    service.close(status)
    assert number is not None
    return number


def test_a_run_lies_in_a_folder_beside_its_own(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    service = MlflowRun("shop", None)
    number = told(service, tmp_path / "run")
    store = (tmp_path / "mlflow").as_uri()
    assert service.where == (
        f"MLFLOW_ALLOW_FILE_STORE=true uvx mlflow ui --backend-store-uri {store}"
    )
    assert service.id is None
    client = MlflowClient(store)
    run = client.get_run(number)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params == {"seed": "3", "model/image_size": "32"}
    assert run.data.metrics == {"val_loss": 0.25}
    assert run.data.tags["mlflow.note.content"] == "# a card"
    assert client.get_experiment(run.info.experiment_id).name == "shop"
    files = [one.path for one in client.list_artifacts(number)]
    assert sorted(files) == ["README.md", "plots"]


def test_a_run_goes_on_under_its_id_and_tells_how_it_ended(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    service = MlflowRun("shop", (tmp_path / "elsewhere").as_uri())
    number = told(service, tmp_path / "run", "stopped")
    assert told(service, tmp_path / "run", "failed", known=number) == number
    assert MlflowClient((tmp_path / "elsewhere").as_uri()).get_run(number).info.status == "FAILED"


def test_a_server_that_is_not_there_says_so(tmp_path: Path) -> None:
    service = MlflowRun("shop", "http://127.0.0.1:1")
    with pytest.raises(Exception, match="127"):
        service.open(tmp_path / "run", None)
    assert service.where is None
    with pytest.raises(ConnectionError):
        service.metrics({"a": 1.0}, 0)
