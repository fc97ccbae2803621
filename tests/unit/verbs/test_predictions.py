import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config.settings import load
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, Registry, Verdict
from pulmo.wiring import open_registry

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pictures(tmp_path: Path, grey_png: Callable[[int], bytes]) -> Path:
    for name, level in (("dark.png", 5), ("mid.png", 128)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(grey_png(level))
    return tmp_path / "in"


def promote(registry: Registry, folder: Path) -> None:
    version = registry.register(folder, actor="me")
    checks = [Check("test_it", True, "fine")]
    registry.record_verdict(
        Verdict(version.name, version.model_digest, "5" * 64, None, True, checks, "0" * 64)
    )
    registry.promote(
        version.name, version.number, suite_digest="5" * 64, actor="me", reason="a test"
    )


def test_people_read_columns(cli: Cli, pictures: Path, toy_bundle: Bundle) -> None:
    code, out, err = cli("predict", pictures, "--model", toy_bundle.path)
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["label", "probability", "decision"],
        ["DARK", "0.9995", "accept"],
        ["BRIGHT", "0.5078", "refer"],
    ]
    assert "mid.png  (" in out


def test_programs_read_json_lines(cli: Cli, pictures: Path, toy_bundle: Bundle) -> None:
    code, out, err = cli("predict", pictures, "nothing", "--model", toy_bundle.path, "--json")
    dark, mid, missing = map(json.loads, out.splitlines())
    assert (dark["label"], mid["decision"], missing["label"]) == ("DARK", "refer", None)
    assert missing["error"] == "No such file or directory"
    assert (code, err) == (1, "error: 1 of the inputs could not be read\n")


def test_sheets_read_csv(cli: Cli, pictures: Path, toy_bundle: Bundle, tmp_path: Path) -> None:
    heat = tmp_path / "heat"
    _, out, _ = cli("predict", pictures, "--model", toy_bundle.path, "--csv", "--overlay", heat)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["label"] for row in rows] == ["DARK", "BRIGHT"]
    assert rows[0]["model_digest"] == toy_bundle.info.model_digest
    assert Path(rows[0]["overlay"]).is_file()


def test_one_format_at_a_time(cli: Cli, pictures: Path) -> None:
    assert cli("predict", pictures, "--json", "--csv")[0] == 2


def test_a_name_alone_means_what_is_in_production(
    cli: Cli, pictures: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    registry = open_registry(load())
    registry.register(make_bundle(tmp_path / "one").path, actor="me")
    code, _, err = cli("predict", pictures, "--model", "toy")
    assert (code, err) == cli("predict", pictures, "--model", "toy:production")[::2]
    assert (code, "production" in err) == (1, True)
    promote(registry, tmp_path / "one")
    registry.register(make_bundle(tmp_path / "two", weights=b"newer").path, actor="me")
    tested = cli("predict", pictures, "--model", "toy:v0", "--json")
    assert cli("predict", pictures, "--model", "toy", "--json") == tested


def test_the_only_model_in_production_is_asked_when_none_is_named(
    cli: Cli, pictures: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    registry = open_registry(load())
    code, _, err = cli("predict", pictures)
    assert (code, "say --model a bundle" in err) == (2, True)
    promote(registry, make_bundle(tmp_path / "one", name="one").path)
    code, out, _ = cli("predict", pictures, "--json")
    assert (code, json.loads(out.splitlines()[0])["model"]) == (0, "one")
    promote(registry, make_bundle(tmp_path / "two", name="two").path)
    code, _, err = cli("predict", pictures)
    assert (code, "one of one:production, two:production" in err) == (2, True)
