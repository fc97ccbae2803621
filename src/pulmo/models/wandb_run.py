"""A run at Weights & Biases, by Lightning's logger: sent at once, or kept for `wandb sync`."""

import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from pulmo.config.wandb import load_wandb
from pulmo.logs import get_logger

log = get_logger(__name__)

STEP = "trainer/global_step"  # as Lightning's logger calls it
FINISH_S = 300.0  # how long the end of a run waits for what is still on its way
INIT_S = 30.0  # how long its beginning waits for an answer, unless WANDB_INIT_TIMEOUT is set


class WandbRun:
    """The runs of one project; its SDK finds key, mode, address and entity in the environment.

    Where W&B cannot be reached, the run is kept in its folder instead, as in offline mode.
    """

    name, kind = "W&B", "wandb"

    def __init__(self, project: str) -> None:
        self._project = project
        self._logger: WandbLogger | None = None
        self._where: str | None = None

    @property
    def id(self) -> str | None:
        """Eight letters and digits, chosen here so that a resumed run is the same one."""
        return None if self._logger is None else str(self._logger.version)

    @property
    def where(self) -> str | None:
        """The run's page, or how to send what was kept."""
        return self._where

    def open(self, folder: Path, known: str | None) -> None:
        """Begin or go on, online if W&B answers."""
        number = known or secrets.token_hex(4)
        self._logger = self._where = None
        try:
            logger = self._begun(folder, number)
        except Exception as error:  # noqa: BLE001 - its SDK has no root of its errors
            log.warning("W&B cannot be reached (%s): the run is kept", _first_line(error))
            load_wandb().teardown()  # its core still has the id in use
            logger = self._begun(folder, number, mode="offline")
        run = logger.experiment
        self._logger = logger
        if run.offline:
            self._where = f"uv run wandb sync {Path(run.dir).parent}"
        else:
            self._where = run.url
        log.info("W&B: %s", self._where or "disabled by WANDB_MODE")

    def _begun(self, folder: Path, number: str, **options: Any) -> WandbLogger:
        chosen: dict[str, Any] = {
            "quiet": True,
            "console": "off",  # run.log has what was said
            "disable_git": True,  # the configuration names the commit; a remote may hold a password
            "save_code": False,
            "finish_timeout": FINISH_S,
            "finish_timeout_raises": True,
        }
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            chosen["init_timeout"] = INIT_S
        sdk = load_wandb()
        known = sdk.Settings.model_fields
        run = sdk.init(
            name=folder.name,
            project=self._project,
            dir=folder,
            id=number,
            resume="allow",
            job_type="train",
            settings={name: value for name, value in chosen.items() if name in known},
            **options,
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return WandbLogger(project=self._project, save_dir=folder, version=number, experiment=run)

    def configure(self, values: Mapping[str, Any]) -> None:
        """The run's config."""
        self._open.log_hyperparams(dict(values))

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """One row of its history, which its summary follows."""
        self._open.log_metrics(values, step)

    def picture(self, name: str, png: bytes) -> None:
        """An image of its media."""
        self._open.log_image(name, [Image.open(io.BytesIO(png))])

    def text(self, name: str, text: str) -> None:
        """One of its files."""
        run = self._open.experiment
        path = Path(run.dir) / name
        path.write_text(text, encoding="utf-8")
        run.save(str(path), base_path=run.dir, policy="now")

    def close(self, status: str) -> None:
        """Wait until all is sent. Raises where that takes too long."""
        run = self._open.experiment
        kept = f"uv run wandb sync {Path(run.dir).parent}"
        try:
            run.finish(exit_code=0 if status == "done" else 1)
        except Exception:
            self._where = kept
            log.warning("W&B has not all of the run: %s", kept)
            raise
        finally:
            self._logger = None

    @property
    def _open(self) -> WandbLogger:
        if self._logger is None:
            raise ConnectionError("the run is not open")
        return self._logger


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
