"""Before anything is trained, one sentence says what a tracking service needs."""

import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulmo.config import tracking
from pulmo.config.compose import compose
from pulmo.errors import ConfigError
from pulmo.wiring import open_tracker


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    if sdk := sys.modules.get("wandb"):
        sdk.teardown()  # it reads the environment once


def test_the_runs_folder_is_enough_unless_somebody_asks_for_more() -> None:
    config = compose()
    assert config.tracking.kind == "none"
    assert open_tracker(config.tracking) is None


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_service_is_one_option(kind: str) -> None:
    chosen = compose([f"tracking={kind}", "tracking.project=mine"]).tracking
    assert (chosen.kind, chosen.project) == (kind, "mine")


def test_without_a_key_one_sentence_says_what_to_set() -> None:
    pytest.importorskip("wandb", reason="the group `wandb` is not installed")
    with pytest.raises(ConfigError, match=r"WANDB_API_KEY.*WANDB_MODE=offline") as told:
        open_tracker(compose(["tracking=wandb"]).tracking)
    assert "\n" not in str(told.value)


def test_a_key_that_can_be_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the group `wandb` is not installed")
    monkeypatch.setenv("WANDB_API_KEY", "too-short-secret")
    with pytest.raises(ConfigError, match="WANDB_API_KEY") as told:
        open_tracker(compose(["tracking=wandb"]).tracking)
    assert "too-short-secret" not in str(told.value)


def test_offline_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the group `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = open_tracker(compose(["tracking=wandb"]).tracking)
    assert tracker is not None
    assert (tracker.kind, tracker.version, tracker.where) == ("wandb", None, None)


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_without_the_package_one_sentence_says_how_to_get_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"uv sync --group {kind}"):
        open_tracker(compose([f"tracking={kind}"]).tracking)


def test_a_folder_called_mlflow_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("mlflow", None)
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match="uv sync --group mlflow"):
        tracking.check_mlflow()


def test_mlflow_is_told_where_its_own_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert (tracking.mlflow_uri(), tracking.mlflow_experiment()) == (None, "pulmo")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert (tracking.mlflow_uri(), tracking.mlflow_experiment()) == ("https://host", "mine")
