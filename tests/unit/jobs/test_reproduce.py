"""Reproducing runs the recorded commit, and believes nothing that is not equal to the last bit."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.settings import Settings
from pulmo.core import bundle as bundles
from pulmo.core.bundle import Bundle, Lineage, file_digest
from pulmo.core.ports import ModelRef, Registry
from pulmo.data import remote
from pulmo.data.manifest import DataSet, Manifest, Row, store
from pulmo.errors import ConfigError, DataError, ModelError, RefusedError
from pulmo.jobs.lineage import RECALIBRATED
from pulmo.jobs.reproduce import Reproduction, checked_out, compare, origin_of, reproduce
from pulmo.wiring import open_registry

REF = ModelRef("toy", version=0)
PROJECT = """\
[project]
name = "workshop"
version = "0"
requires-python = ">=3.11"

[tool.uv]
package = false
"""
# What stands for a training: it checks what it is given and copies the bundle it is told to.
TRAIN = """\
import json, os, shutil, sys
from pathlib import Path

here = Path(__file__).resolve().parent
assert sys.argv[1:3] == ["train", "--config"], sys.argv
assert Path(sys.prefix) == here / ".venv", sys.prefix
print("epoch 1", file=sys.stderr)
config = json.loads(Path(sys.argv[3]).read_text())
pointer = Path(os.environ["PULMO_DATA_DIR"], config["data"]["name"], "dataset.json")
assert json.loads(pointer.read_text())["digest"] == config["expected"]
if config["trained"] is None:
    sys.exit(4)
shutil.copytree(here / config["trained"], Path(config["run"]["dir"], "bundle"))
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Bundle]) -> Path:
    """A checkout with a lock file and two bundles that its training can give."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the PATH")
    root = tmp_path_factory.mktemp("workshop")
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "main.py").write_text(TRAIN)
    make_bundle(root / "same")
    make_bundle(root / "other", weights=b"other weights", score=0.8)
    subprocess.run(["uv", "lock", "-q", "--offline"], cwd=root, check=True)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


@pytest.fixture
def places(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        data_url=f"file://{tmp_path}/there",
        registry_url=f"sqlite:///{tmp_path}/registry.db",
        files_url=str(tmp_path / "bundles"),
    )


@pytest.fixture
def dataset(tmp_path: Path, places: Settings) -> DataSet:
    row = Row("a.png", "cat", "train", "p", bundles.sha256(b"picture"), "0" * 64)
    (tmp_path / "a.png").write_bytes(b"picture")
    return store(Manifest("pets", ("cat", "dog"), 1, (row,)), tmp_path, places.data_dir)


@pytest.fixture
def origin(workshop: Path, dataset: DataSet) -> Lineage:
    return Lineage(
        data_name="pets",
        data_digest=dataset.manifest.digest,
        commit=git(workshop, "rev-parse", "HEAD"),
        clean=True,
        configuration={
            "run": {"root": "runs", "dir": None},
            "data": {"name": "pets"},
            "expected": dataset.manifest.digest,
            "trained": "same",
        },
        seed=0,
        lock_digest=file_digest(workshop / "uv.lock"),
        machine="none",
        created_at="2026-01-01T00:00:00+00:00",
    )


def trained(origin: Lineage, what: str | None) -> Lineage:
    return origin.model_copy(update={"configuration": {**origin.configuration, "trained": what}})


@pytest.fixture
def registered(places: Settings, toy_bundle: Bundle, tmp_path: Path) -> Callable[..., Registry]:
    """The registry with the toy model as v0, of the given origin."""

    def register(origin: Lineage) -> Registry:
        folder = tmp_path / "registered"
        written = bundles.write(
            folder,
            graph=toy_bundle.graph,
            weights=(toy_bundle.path / bundles.WEIGHTS).read_bytes(),
            reference=toy_bundle.reference(),
            members=toy_bundle.members(),
            info=toy_bundle.info.model_copy(update={"lineage": origin}),
            card="# toy\n",
        )
        registry = open_registry(places)
        registry.register(written.path, actor="test")
        return registry

    return register


@pytest.fixture
def again(
    registered: Callable[..., Registry], places: Settings, workshop: Path, tmp_path: Path
) -> Callable[..., Reproduction]:
    def run(origin: Lineage) -> Reproduction:
        return reproduce(registered(origin), REF, places, tmp_path / "run", workshop)

    return run


def test_the_recorded_commit_gives_the_same_model(
    again: Callable[..., Reproduction],
    origin: Lineage,
    workshop: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (workshop / "main.py").write_text("raise SystemExit('not the recorded commit')")
    try:
        found = again(origin)
    finally:
        git(workshop, "checkout", "-q", "main.py")
    assert found.same
    assert "epoch 1" in capfd.readouterr().err
    assert [line.name for line in found.lines] == ["weights", "graph", "model digest", "val auroc"]
    assert found.lines[-1].recorded == "0.9 [0.85, 1.0]"
    told = {line.name for line in found.circumstances}
    assert told == {"commit", "lock_digest", "data_digest"}  # a copied bundle knows of none
    assert (tmp_path / "run" / "bundle").is_dir()
    assert len(git(workshop, "worktree", "list").splitlines()) == 1


def test_another_model_is_told_by_what_differs(
    again: Callable[..., Reproduction], origin: Lineage
) -> None:
    found = again(trained(origin, "other"))
    assert not found.same
    differing = [line.name for line in found.lines if not line.same]
    assert differing == ["weights", "model digest", "val auroc"]


def test_a_metric_that_only_one_has_is_a_difference(toy_bundle: Bundle) -> None:
    bare = toy_bundle.model_copy(
        update={"info": toy_bundle.info.model_copy(update={"metrics": {}})}
    )
    assert not compare(toy_bundle, bare)[-1].same
    assert not compare(bare, toy_bundle)[-1].same


def test_data_that_are_elsewhere_are_fetched(
    again: Callable[..., Reproduction], origin: Lineage, dataset: DataSet, places: Settings
) -> None:
    assert places.data_url is not None
    remote.push(dataset, places.data_url)
    shutil.rmtree(places.data_dir)
    assert again(origin).same


def test_data_that_are_nowhere_are_said(
    again: Callable[..., Reproduction], origin: Lineage, places: Settings, workshop: Path
) -> None:
    shutil.rmtree(places.data_dir)
    with pytest.raises(DataError, match="pulmo data-push"):
        again(origin)
    assert len(git(workshop, "worktree", "list").splitlines()) == 1


def test_a_training_that_fails_is_said_and_leaves_no_worktree(
    again: Callable[..., Reproduction], origin: Lineage, workshop: Path
) -> None:
    with pytest.raises(ModelError, match="ended with 4"):
        again(trained(origin, None))
    assert len(git(workshop, "worktree", "list").splitlines()) == 1


def test_a_folder_that_is_there_is_not_overwritten(
    again: Callable[..., Reproduction], origin: Lineage, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="--out"):
        again(origin)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commit": None, "clean": None}, "outside a git checkout"),
        ({"clean": False}, "uncommitted changes"),
        ({"notes": (f"{RECALIBRATED} toy@abc",)}, "recalibrated from toy@abc: reproduce that"),
    ],
)
def test_an_origin_that_is_not_known_exactly_is_refused(
    again: Callable[..., Reproduction], origin: Lineage, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RefusedError, match=f"toy:v0 cannot be reproduced: .*{reason}"):
        again(origin.model_copy(update=changes))


def test_the_first_origin_that_can_be_repeated_is_taken(
    registered: Callable[..., Registry], origin: Lineage
) -> None:
    version = registered(origin).get(REF)
    unclean = origin.model_copy(update={"clean": False}).model_dump()
    assert origin_of(version, [unclean, origin.model_dump()]) == origin
    with pytest.raises(RefusedError, match="no recorded origin"):
        origin_of(version, [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commit": "0" * 40}, "unknown in .*git fetch"),
        ({"lock_digest": "0" * 64}, "uv.lock of commit"),
    ],
)
def test_a_commit_that_is_not_the_recorded_one_is_refused(
    origin: Lineage, workshop: Path, changes: dict[str, Any], reason: str
) -> None:
    with (
        pytest.raises(RefusedError, match=reason),
        checked_out(origin.model_copy(update=changes), workshop),
    ):
        pass
    assert len(git(workshop, "worktree", "list").splitlines()) == 1


def test_a_worktree_that_git_refuses_is_said(
    origin: Lineage, workshop: Path, tmp_path: Path
) -> None:
    root = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(workshop), str(root))
    (root / ".git" / "worktrees").write_text("no folder")
    with pytest.raises(ConfigError, match="no worktree"), checked_out(origin, root):
        pass


def test_a_missing_tool_or_checkout_is_said(
    origin: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="git clone"), checked_out(origin, tmp_path):
        pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="git is not on the PATH"), checked_out(origin, tmp_path):
        pass
