"""The tasks that workflows run, run for real in a throwaway clone: what no quick test executes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from cloned import digests, git, make, run
from services import BUCKET, gcs

Tell = Callable[[str], None]
PHANTOM = "data=phantom"
NAME = "phantom-demo"
GH = """\
#!/bin/sh
printf '%s\\n' "$@" > "$SAID/arguments"
cat reports/comment.md > "$SAID/body"
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tasks") / "pulmo")


@pytest.fixture(scope="module")
def trained(clone: Path) -> str:
    """What `train --stage` said: as `train.yaml` runs it."""
    run(clone, "invoke", "data", "--overrides", PHANTOM)
    return run(clone, "invoke", "train", "--stage", "--overrides", PHANTOM)


def registry(clone: Path, *words: str) -> dict[str, object]:
    told = run(clone, "main.py", "registry", *words, "--json")
    line = next(line for line in told.splitlines() if line.startswith("{"))
    found: dict[str, object] = json.loads(line)
    return found


def test_a_model_is_trained_promoted_and_published(clone: Path, trained: str, tell: Tell) -> None:
    assert "production" in trained
    bundle = max((clone / "runs").glob("*/bundle"))
    commit = git(clone, "rev-parse", "HEAD")
    with gcs() as emulator:
        publish = ("invoke", "publish", "--url", f"gs://{BUCKET}/models", "--branch", "main")
        said = run(clone, *publish, STORAGE_EMULATOR_HOST=emulator)
        address = f"gs://{BUCKET}/models/main/{commit}"
        assert address in said
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", emulator)
            storage, path = fsspec.url_to_fs(address, skip_instance_cache=True)
            there = {name.rpartition("/")[2]: storage.cat_file(name) for name in storage.ls(path)}
    assert there == {file.name: file.read_bytes() for file in bundle.iterdir()}
    tell(f"trained, promoted, published: {len(there)} files at {BUCKET}/models/main/COMMIT")


def test_what_is_staged_is_tested_and_promoted(clone: Path, trained: str, tell: Tell) -> None:
    (first,) = (path.parent for path in (clone / "runs").glob("*/bundle"))
    run(clone, "main.py", "recalibrate", str(first), "decision.refer=0.2", "run.dir=runs/second")
    run(clone, "main.py", "registry", "stage", "runs/second", "--later")
    staged = registry(clone, "show", f"{NAME}:staging")["version"]
    assert isinstance(staged, dict)
    model = f"{NAME}@{staged['model_digest']}"
    said = run(clone, "invoke", "test-staged", MODEL=model)
    present = registry(clone, "show", f"{NAME}:production")["version"]
    assert isinstance(present, dict)
    assert present["model_digest"] == staged["model_digest"], said
    assert "nothing to test" in run(clone, "invoke", "test-staged", MODEL=f"{NAME}@{'0' * 64}")
    assert "names no model" in run(clone, "invoke", "test-staged", expect=1, MODEL="x; touch y")
    tell(f"staged tests of {model[:25]}…: promoted")


def test_a_pull_request_gets_figures_plots_and_a_comparison(
    clone: Path, tmp_path: Path, tell: Tell
) -> None:
    other = tmp_path / "pulmo"
    git(tmp_path, "clone", "-q", str(clone), str(other))
    for name, value in (("user.name", "a"), ("user.email", "a@b.invalid")):
        git(other, "config", name, value)
    smaller(other, "images: 1200", "images: 300")
    git(other, "commit", "-qam", "fewer pictures")
    chosen = other / "configs/config.yaml"
    chosen.write_text(chosen.read_text("utf-8").replace("seed: 0", "seed: 1"), "utf-8")
    git(other, "commit", "-qam", "another seed")
    run(other, "invoke", "report", "--base", "HEAD~1", own=True)
    text = (other / "reports/comment.md").read_text("utf-8")
    assert "| metric | here | HEAD~1 | difference |" in text
    assert "| auroc | " in text
    assert "The models differ." in text
    kinds = {path.suffix for path in (other / "reports").rglob("*") if path.is_file()}
    assert {".html", ".png", ".json", ".md"} <= kinds
    assert git(other, "worktree", "list").count("\n") == 0

    (shim := tmp_path / "gh").write_text(GH)
    shim.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run(other, "invoke", "comment", PATH=path, SAID=str(tmp_path), PULL_REQUEST="7")
    words = (tmp_path / "arguments").read_text().split()
    assert words[:3] == ["pr", "comment", "7"]
    assert {"--edit-last", "--create-if-none"} <= set(words)
    assert (tmp_path / "body").read_text("utf-8") == text
    said = run(other, "invoke", "comment", expect=1, PATH=path, PULL_REQUEST="7; touch x")
    assert "PULL_REQUEST" in said
    tell(text)


def smaller(clone: Path, before: str, after: str) -> None:
    path = clone / "configs/data/phantom.yaml"
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), "utf-8")


def test_changed_pictures_are_counted_examined_and_trained_on(clone: Path, tell: Tell) -> None:
    run(clone, "invoke", "draw")
    run(clone, "dvc", "remote", "add", "-q", "--default", "team", f"gs://{BUCKET}/dvc")
    run(clone, "dvc", "remote", "modify", "team", "allow_anonymous_login", "true")
    git(clone, "commit", "-qam", "a remote")
    with gcs() as emulator:
        there = {"STORAGE_EMULATOR_HOST": emulator}
        run(clone, "dvc", "push", "-q", "data/raw.dvc", **there)
        for picture in sorted((clone / "data/raw/NORMAL").iterdir())[:3]:
            picture.unlink()
        run(clone, "dvc", "add", "-q", "data/raw")
        run(clone, "dvc", "push", "-q", "data/raw.dvc", **there)
        git(clone, "commit", "-qam", "three pictures less")
        had = digests(clone / "data/raw")
        for folder in ("data/raw", ".dvc/cache"):  # as on a runner: all of it comes from the remote
            shutil.rmtree(clone / folder)
        said = run(clone, "invoke", "data-changes", "--base", "HEAD~1", **there)
    assert digests(clone / "data/raw") == had
    counted = next(line for line in said.splitlines() if line.startswith("other pictures than"))
    assert "(-3)" in counted
    assert "auroc" in said.rpartition("other pictures than")[2]
    assert git(clone, "worktree", "list").count("\n") == 0
    tell(counted)


def test_pages_and_workflows(clone: Path) -> None:
    run(clone, "invoke", "docs")
    assert (clone / "site/tracking.html").is_file()
    run(clone, "invoke", "workflows")


def test_the_oldest_torch(clone: Path, tell: Tell) -> None:
    said = run(clone, "invoke", "test-oldest-torch", own=True)
    (last,) = [line for line in said.splitlines() if " passed" in line]
    tell(f"with the oldest torch: {last}")
