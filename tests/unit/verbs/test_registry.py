import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.compose import compose_for_model
from pulmo.config.settings import load
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, Registry, Verdict, Version
from pulmo.jobs.release import suite_digest
from pulmo.wiring import open_registry

Cli = Callable[..., tuple[int, str, str]]

NAME = "phantom-demo"


@pytest.fixture
def registry(cli: Cli, make_bundle: Callable[..., Bundle], tmp_path: Path) -> Registry:
    """Two versions of one model, nothing promoted, in the folder that `cli` works in."""
    opened = open_registry(load())
    for number, score in enumerate((0.9, 0.8)):
        made = make_bundle(tmp_path / str(number), name=NAME, weights=bytes([number]), score=score)
        opened.register(made.path, actor="me")
    return opened


def passing(registry: Registry, version: Version, champion: Version | None) -> None:
    registry.record_verdict(
        Verdict(
            name=version.name,
            model_digest=version.model_digest,
            suite_digest=suite_digest(compose_for_model(NAME)),
            champion_digest=champion.model_digest if champion else None,
            passed=True,
            checks=[Check("test_it", True, "fine")],
            data_digest="0" * 64,
        )
    )


def as_json(cli: Cli, *arguments: str) -> Any:
    code, out, _ = cli(*arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_models_are_listed_with_their_aliases(cli: Cli, registry: Registry) -> None:
    assert as_json(cli, "registry", "list") == [
        {"name": NAME, "versions": 2, "aliases": {"latest": 1, "best": 0}}
    ]
    assert "best=v0, latest=v1" in cli("registry", "list")[1]


def test_a_model_shows_its_versions(cli: Cli, registry: Registry) -> None:
    assert [one["number"] for one in as_json(cli, "registry", "show", NAME)] == [0, 1]
    _, out, _ = cli("registry", "show", NAME)
    assert f"{NAME}:v1  auroc   0.8000" in out


def test_a_version_shows_its_origins_and_verdicts(cli: Cli, registry: Registry) -> None:
    first, _ = registry.versions(NAME)
    passing(registry, first, None)
    told = as_json(cli, "registry", "show", f"{NAME}:v0")
    assert told["version"]["model_digest"] == first.model_digest
    assert told["lineages"][0]["data_name"] == "toy"
    assert told["verdicts"][0]["checks"] == [{"name": "test_it", "passed": True, "detail": "fine"}]
    _, out, _ = cli("registry", "show", f"{NAME}:v0")
    assert "passed (against no champion)" in out
    assert "data_name" in out


def test_promotion_needs_a_passing_verdict_and_rollback_goes_back(
    cli: Cli, registry: Registry
) -> None:
    first, second = registry.versions(NAME)
    assert cli("registry", "promote", f"{NAME}:v0")[0] == 3
    passing(registry, first, None)
    assert as_json(cli, "registry", "promote", f"{NAME}:v0", "--reason", "good")["after"] == 0
    passing(registry, second, first)
    assert "promote" in cli("registry", "promote", f"{NAME}:v1")[1]
    assert as_json(cli, "registry", "rollback", NAME, "--to", "v0")["after"] == 0
    moves = [
        one for one in as_json(cli, "registry", "history", NAME) if one["alias"] == "production"
    ]
    assert [(one["before"], one["after"]) for one in moves] == [(None, 0), (0, 1), (1, 0)]
    assert moves[0]["reason"] == "good"
    assert "@" in moves[0]["actor"]
    assert "rollback" in cli("registry", "history", NAME)[1]


def test_another_gate_is_other_evidence(cli: Cli, registry: Registry) -> None:
    passing(registry, registry.versions(NAME)[0], None)
    assert cli("registry", "promote", f"{NAME}:v0", "gate.margin=0.5")[0] == 3


def test_a_version_without_aliases_is_forgotten(
    cli: Cli, registry: Registry, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    registry.register(make_bundle(tmp_path / "2", name=NAME, weights=b"2").path, actor="me")
    assert cli("registry", "delete", f"{NAME}:v1") == (0, f"deleted {NAME}:v1\n", "")
    assert as_json(cli, "registry", "delete", f"{NAME}:v2") == {"deleted": f"{NAME}:v2"}
    assert [one.number for one in registry.versions(NAME)] == [0]


def test_what_is_not_there_is_said(cli: Cli, registry: Registry) -> None:
    code, out, err = cli("registry", "show", "nobody:latest")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")


def test_staging_a_folder_takes_the_name_from_its_bundle(
    cli: Cli, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    stray = make_bundle(tmp_path / "stray", name="stray")
    code, _, err = cli("registry", "stage", stray.path)
    assert (code, "declares registry.name: stray" in err) == (2, True)
