import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pulmo.config import wandb
from pulmo.errors import ConfigError

SDK = SimpleNamespace(Settings=lambda: SimpleNamespace(base_url="https://wandb.example"))


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "MODE", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))


def test_without_a_key_it_says_which_variable_gives_one() -> None:
    with pytest.raises(ConfigError, match=r"^W&B needs a key: set WANDB_API_KEY[^\n]*$"):
        wandb.require_key(SDK)


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_a_key_or_a_token_in_the_environment_is_enough(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "something")
    wandb.require_key(SDK)


def test_the_file_of_passwords_counts_for_its_host_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    wandb.require_key(SDK)
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    with pytest.raises(ConfigError):
        wandb.require_key(SDK)
    (tmp_path / "broken").write_text("machine")
    monkeypatch.setenv("NETRC", str(tmp_path / "broken"))
    with pytest.raises(ConfigError):
        wandb.require_key(SDK)


def test_a_missing_package_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="package wandb: `uv sync --group wandb` brings it"):
        wandb.load_wandb()


def test_a_folder_of_that_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(__file__=None))  # type: ignore[misc]
    with pytest.raises(ConfigError, match="uv sync --group wandb"):
        wandb.load_wandb()


def test_it_is_online_or_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wandb.is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb.is_offline()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(ConfigError, match="WANDB_MODE is disabled"):
        wandb.is_offline()


def test_project_and_entity_are_wandbs_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (wandb.project(), wandb.entity()) == ("pulmo", None)
    monkeypatch.setenv("WANDB_PROJECT", "lungs")
    monkeypatch.setenv("WANDB_ENTITY", "clinic")
    assert (wandb.project(), wandb.entity()) == ("lungs", "clinic")
