import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Capabilities
from pulmo.errors import ConfigError, ModelError, NotFoundError, RefusedError
from pulmo.serving.models import Following, Pinned
from pulmo.wiring import (
    copy_ledger,
    open_bundle,
    open_desk,
    open_elsewhere,
    open_receipts,
    open_registry,
    open_sender,
    open_source,
    open_upkeep,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}", files_url=str(tmp_path / "files")
    )


def test_the_registry_lies_where_the_settings_say(
    settings: Settings, toy_bundle: Bundle, tmp_path: Path
) -> None:
    version = open_registry(settings).register(toy_bundle.path, actor="me")
    assert version.label == "toy:v0"
    assert (tmp_path / "registry.db").is_file()
    assert open_registry(settings, read_only=True).names() == ["toy"]


def test_a_bundle_is_opened_by_reference_by_folder_and_by_run(
    settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "run" / "bundle")
    open_registry(settings).register(made.path, actor="me")
    assert open_bundle(settings, str(made.path)).digest == made.digest
    assert open_bundle(settings, str(tmp_path / "run")).digest == made.digest
    assert open_bundle(settings, "toy:v0").digest == made.digest


def test_what_names_no_bundle_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        open_bundle(settings, str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="is no bundle"):
        open_bundle(settings, str(tmp_path))
    open_registry(settings).names()
    with pytest.raises(ConfigError, match="names no model"):
        open_bundle(settings, "No Model")
    with pytest.raises(NotFoundError):
        open_bundle(settings, "toy:v0")


def test_an_alias_is_followed_and_all_else_stays(settings: Settings, toy_bundle: Bundle) -> None:
    version = open_registry(settings).register(toy_bundle.path, actor="me")
    assert isinstance(open_source(settings, "toy:latest"), Following)
    for target in ("toy:v0", f"toy@{version.model_digest}", str(toy_bundle.path)):
        source = open_source(settings, target)
        assert isinstance(source, Pinned)
        assert source.newest(None).name.digest == version.model_digest


def test_a_name_alone_serves_nothing_but_what_is_in_production(
    settings: Settings, toy_bundle: Bundle
) -> None:
    open_registry(settings).register(toy_bundle.path, actor="me")
    with pytest.raises(NotFoundError, match="nothing is at toy:production"):
        open_source(settings, "toy").newest(None)


def test_a_server_of_a_folder_has_no_desk_and_one_for_reading_moves_nothing(
    settings: Settings, toy_bundle: Bundle
) -> None:
    open_registry(settings).register(toy_bundle.path, actor="me")
    assert open_desk(settings, str(toy_bundle.path), admin=False) is None
    reading = open_desk(settings, "toy:latest", admin=False)
    assert reading is not None
    assert reading.promote is None
    assert reading.registry.names() == ["toy"]


def test_a_desk_promotes_what_the_command_line_would(
    settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "bundle", name="phantom-demo")
    version = open_registry(settings).register(made.path, actor="me")
    desk = open_desk(settings, str(made.path), admin=True)
    assert desk is not None
    assert desk.promote is not None
    with pytest.raises(RefusedError, match="has not been tested"):
        desk.promote(version, "me", "because")
    with pytest.raises(RefusedError, match="unknown"):
        desk.promote(replace(version, name="unknown"), "me", "because")


def test_a_desk_without_what_trains_says_where_to_promote(
    settings: Settings, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = open_registry(settings).register(toy_bundle.path, actor="me")
    desk = open_desk(settings, "toy:latest", admin=True)
    assert desk is not None
    assert desk.promote is not None
    monkeypatch.setitem(sys.modules, "pulmo.config.compose", None)
    with pytest.raises(RefusedError, match="pulmo registry promote toy:v0"):
        desk.promote(version, "me", "because")


def test_the_registry_with_wandb_is_the_same_ledger_and_asks_nobody_before_it_must(
    settings: Settings, toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    open_registry(settings).register(toy_bundle.path, actor="me")
    there = settings.model_copy(update={"registry": "wandb"})
    registry = open_registry(there, read_only=True)
    assert registry.capabilities == Capabilities("pulmo", shown_elsewhere=True)
    assert open_registry(settings).capabilities == Capabilities("everyone", shown_elsewhere=False)
    assert open_bundle(there, "toy:v0").digest == toy_bundle.digest
    assert open_elsewhere(settings) is None
    assert open_elsewhere(there) is not None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert open_elsewhere(there) is None
    assert open_upkeep(there).verify() == []


def test_wandb_is_told_of_moves_and_not_of_those_on_a_copy_of_the_ledger(
    settings: Settings, toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    there = settings.model_copy(update={"registry": "wandb"})
    registry = open_registry(settings)
    registry.register(toy_bundle.path, actor="me")
    open_registry(there).set_alias("toy", "team", 0, expected=None, actor="me", reason="a try")
    sender = open_sender(there, HookSettings())
    sender.deliver()
    assert {d.target for d in sender.deliveries(everything=True)} == {"local", "wandb"}
    assert "WANDB_MODE=offline" in (sender.deliveries()[0].error or "")
    assert copy_ledger(there, tmp_path).registry == "local"


@pytest.mark.parametrize(
    "url", ["sqlite:///:memory:", "sqlite://", "mysql://h/x", "postgresql+pg8001://h/x"]
)
def test_a_log_that_cannot_be_kept_is_refused_before_a_server_starts(url: str) -> None:
    with pytest.raises(ConfigError):
        open_receipts(Settings(log_url=url))


def test_a_server_starts_before_the_database_library_is_there(tmp_path: Path) -> None:
    program = """
import sys
from pulmo.config.settings import load
from pulmo.serving import app, receipts, server
from pulmo.wiring import open_receipts

opening = open_receipts(load())
assert "sqlalchemy" not in sys.modules
opening()
assert "sqlalchemy" in sys.modules
"""
    url = {"PULMO_LOG_URL": f"sqlite:///{tmp_path}/log.db"}
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **url})
