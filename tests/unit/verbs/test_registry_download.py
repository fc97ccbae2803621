import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config.settings import load
from pulmo.core.bundle import Bundle, verify
from pulmo.core.ports import Check, Registry, Verdict, Version
from pulmo.wiring import open_registry

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def registry(cli: Cli, toy_bundle: Bundle) -> Registry:
    opened = open_registry(load())
    opened.register(toy_bundle.path, actor="me")
    return opened


def judge(registry: Registry, version: Version, *, passed: bool) -> None:
    registry.record_verdict(
        Verdict(
            name=version.name,
            model_digest=version.model_digest,
            suite_digest="0" * 64,
            champion_digest=None,
            passed=passed,
            checks=[Check("test_ranks", passed, "")],
            data_digest="0" * 64,
        )
    )


def test_only_what_passed_its_newest_tests_is_downloaded_as_tested(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    (version,) = registry.versions("toy")
    ask = ("registry", "download", "toy:best", "--tested", "--out")
    code, _, err = cli(*ask, "a")
    assert (code, "toy:v0 has not been tested" in err) == (3, True)
    judge(registry, version, passed=True)
    code, out, _ = cli(*ask, "b", "--json")
    assert code == 0
    assert json.loads(out) == {
        "name": "toy",
        "version": "v0",
        "model_digest": version.model_digest,
        "bundle_digest": version.bundle_digest,
        "folder": "b",
    }
    assert verify(tmp_path / "b").digest == version.bundle_digest
    judge(registry, version, passed=False)
    code, _, err = cli(*ask, "c")
    assert (code, "did not pass its newest tests (test_ranks)" in err) == (3, True)
    assert not (tmp_path / "c").exists()


def test_a_folder_is_copied_but_never_called_tested(
    cli: Cli, toy_bundle: Bundle, tmp_path: Path
) -> None:
    code, out, _ = cli("registry", "download", str(toy_bundle.path), "--out", "a")
    assert (code, toy_bundle.digest in out) == (0, True)
    assert verify(tmp_path / "a").digest == toy_bundle.digest
    code, _, err = cli("registry", "download", str(toy_bundle.path), "--out", "b", "--tested")
    assert (code, "no verdict is about" in err) == (3, True)
