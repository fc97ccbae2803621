"""A run in MLflow, by Lightning's logger: at a tracking server or in a folder."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger

from pulmo.logs import get_logger

log = get_logger(__name__)

URI = "MLFLOW_TRACKING_URI"
NOTE = "mlflow.note.content"  # shown as the run's description
_STATES = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MlflowRun:
    """The runs of one experiment at `uri`; user and password come from MLflow's own variables.

    Without `uri` they lie in a folder `mlflow` beside the run's own.
    """

    name, kind = "MLflow", "mlflow"

    def __init__(self, experiment: str, uri: str | None) -> None:
        self._experiment, self._uri = experiment, uri
        self._logger: MLFlowLogger | None = None
        self._where: str | None = None

    @property
    def id(self) -> str | None:
        """What the server calls the run."""
        return None if self._logger is None else self._logger.run_id

    @property
    def where(self) -> str | None:
        """The server, or the command that shows the folder."""
        return self._where

    def open(self, folder: Path, known: str | None) -> None:
        """Begin, or go on with what is known there."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        uri = self._uri
        if uri is None:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # plain files: no server, no migrations
            uri = (folder.resolve().parent / "mlflow").as_uri()
        logger = MLFlowLogger(
            experiment_name=self._experiment,
            run_name=folder.name,
            tracking_uri=uri,
            run_id=known,
        )
        _ = logger.run_id  # begins it
        self._logger, self._where = logger, _shown_by(uri)
        log.info("MLflow: %s", self._where if self._uri is None else "its server has the run")

    def configure(self, values: Mapping[str, Any]) -> None:
        """The run's parameters."""
        self._open.log_hyperparams(dict(values))

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """The run's metrics; names take no brackets."""
        self._open.log_metrics(values, step)

    def picture(self, name: str, png: bytes) -> None:
        """An artifact."""
        logger = self._open
        image = Image.open(io.BytesIO(png))
        logger.experiment.log_image(logger.run_id, image, f"plots/{name}.png")

    def text(self, name: str, text: str) -> None:
        """An artifact; Markdown is the run's description too."""
        logger = self._open
        logger.experiment.log_text(logger.run_id, text, name)
        if name.endswith(".md"):
            logger.experiment.set_tag(logger.run_id, NOTE, text)

    def close(self, status: str) -> None:
        """Say how the run ended."""
        logger = self._open
        logger.experiment.set_terminated(logger.run_id, _STATES[status])
        self._logger = None

    @property
    def _open(self) -> MLFlowLogger:
        if self._logger is None:
            raise ConnectionError("the run is not open")
        return self._logger


def _shown_by(uri: str) -> str:
    if not uri.startswith("file:"):
        return uri
    command = f"uvx mlflow ui --backend-store-uri {uri}"
    return f"MLFLOW_ALLOW_FILE_STORE=true {command}"
