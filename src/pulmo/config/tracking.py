"""Where training runs are shown besides their folder: the group `tracking`, and what it needs."""

import importlib.util
import os
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pulmo.config import wandb
from pulmo.errors import ConfigError

_KEY = re.compile(r"[\w.-]{40,}")


class TrackingConfig(BaseModel):
    """Who is told of a run. `project` is the project at W&B, the experiment in MLflow; null takes
    what the service's own variable says, else `pulmo`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "wandb", "mlflow"] = "none"
    project: str | None = None


def check_wandb() -> None:
    """Raise ConfigError where W&B could not be told: no package, no key, an unknown mode."""
    sdk = wandb.load_wandb()
    if wandb.is_offline():
        return
    wandb.require_key(sdk)
    if (key := os.environ.get("WANDB_API_KEY")) and not _KEY.fullmatch(key):
        raise ConfigError(
            "WANDB_API_KEY is no key, which has 40 or more letters and digits: copy it anew from "
            "the settings of your account"
        )


def check_mlflow() -> None:
    """Raise ConfigError where MLflow's client is not installed."""
    found = importlib.util.find_spec("mlflow")
    if found is None or found.origin is None:  # a folder of that name is no package
        raise ConfigError("tracking=mlflow needs the package mlflow-skinny: uv sync --group mlflow")


def mlflow_uri() -> str | None:
    """The tracking server, or another place for runs, that the environment names."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def mlflow_experiment() -> str:
    """The experiment that runs belong to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or wandb.PROJECT
