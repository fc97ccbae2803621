import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config.settings import load
from pulmo.core.bundle import GRAPH, Bundle
from pulmo.core.ports import Registry, Version
from pulmo.wiring import open_registry

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def registry(cli: Cli) -> Registry:
    return open_registry(load())


@pytest.fixture
def version(registry: Registry, toy_bundle: Bundle) -> Version:
    return registry.register(toy_bundle.path, actor="me")


def test_a_whole_registry_is_said_to_be_whole(cli: Cli, version: Version) -> None:
    assert cli("registry", "verify") == (0, "0 damages, 0 notes\n", "")
    assert json.loads(cli("registry", "verify", "toy", "--json")[1]) == {
        "whole": True,
        "findings": [],
    }


def test_damage_ends_with_three_and_says_what_to_do(cli: Cli, version: Version) -> None:
    Path("models/bundles", version.bundle_digest, GRAPH).write_bytes(b"foreign")
    code, out, err = cli("registry", "verify")
    assert code == 3
    assert "DAMAGE  toy:v0" in out
    assert "register the same bundle again" in out
    assert err == "error: the registry is damaged at toy:v0\n"
    code, out, _ = cli("registry", "verify", "--json")
    assert (code, json.loads(out)["whole"]) == (3, False)


def test_what_is_not_needed_is_shown_first_and_removed_then(
    cli: Cli, registry: Registry, version: Version
) -> None:
    registry.delete("toy", 0, actor="me", reason="")
    code, out, _ = cli("registry", "gc", "--dry-run")
    assert code == 0
    assert f"{version.bundle_digest}  (bundle)" in out
    assert "in 1 places would be removed" in out
    told = json.loads(cli("registry", "gc", "--json")[1])
    assert [piece["name"] for piece in told["removed"]] == [version.bundle_digest]
    assert "in 0 places removed (0 bytes)" in cli("registry", "gc")[1]


def test_a_backup_is_restored_into_an_empty_registry_alone(
    cli: Cli, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = cli("registry", "backup", "b.tar")
    assert (code, out.split("  ")[1][:22]) == (0, "1 versions, 1 bundles,")
    assert json.loads(cli("registry", "backup", "b.tar", "--json")[1])["bundles"] == 1
    assert "holds already 1 versions" in cli("registry", "restore", "b.tar")[1]
    cli("registry", "delete", "toy:v0")
    code, _, err = cli("registry", "restore", "b.tar")
    assert code == 3
    assert "restore into an empty one" in err
    monkeypatch.setenv("PULMO_REGISTRY_URL", "sqlite:///there/registry.db")
    monkeypatch.setenv("PULMO_FILES_URL", "there/bundles")
    assert "now holds 1 versions" in cli("registry", "restore", "b.tar")[1]
    assert json.loads(cli("registry", "restore", "b.tar", "--json")[1])["already"] is True
    assert cli("registry", "verify")[0] == 0


def test_a_bad_archive_makes_no_registry(cli: Cli, tmp_path: Path) -> None:
    Path("b.tar").write_bytes(b"no tar")
    code, _, err = cli("registry", "restore", "b.tar")
    assert code == 1
    assert "is no backup of a registry" in err
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]
