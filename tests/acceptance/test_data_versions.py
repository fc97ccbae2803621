"""Data under DVC: only what changed runs again, and a remote gives back equal bytes."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from services import BUCKET, gcs

ROOT = Path(__file__).parents[2]
# gcsfs asks a bucket's kind through gRPC, which the emulator does not speak.
PLAIN = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
STAGES = ["data", "validate", "train", "evaluate"]
QUICK = 'train: "model=small_cnn recipe=finetune model.image_size=32 trainer.max_epochs=1"'


def run(folder: Path, *command: str, expect: int = 0, **environment: str) -> str:
    """What `uv run COMMAND` says in a clone that has an environment of its own."""
    foreign = ("VIRTUAL_ENV", "PULMO_", "COVERAGE_", "STORAGE_", "GOOGLE_", "PYTHONPATH")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    done = subprocess.run(
        ["uv", "run", "--locked", "--group", "data", "-q", *command],
        cwd=folder,
        env={**clean, **PLAIN, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == expect, said
    return said


def ran(said: str) -> list[str]:
    """The stages that a reproduction ran."""
    return [name for name in STAGES if f"Running stage '{name}'" in said]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions") / "pulmo"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text("utf-8").replace('train: ""', QUICK), "utf-8")
    return folder


def test_only_what_changed_runs_again(clone: Path) -> None:
    recorded = (clone / "data/raw.dvc").read_text("utf-8")
    run(clone, "invoke", "draw")
    assert (clone / "data/raw.dvc").read_text("utf-8") == recorded
    assert ran(run(clone, "invoke", "repro")) == STAGES
    assert ran(run(clone, "invoke", "repro")) == []

    min((clone / "data/raw/NORMAL").iterdir()).unlink()
    said = run(clone, "invoke", "repro")
    assert ran(said) == STAGES
    assert "other pictures than" in said
    assert "(-1)" in said

    recipe = clone / "configs/recipe/finetune.yaml"
    recipe.write_text(recipe.read_text("utf-8") + "# changed\n", "utf-8")
    assert ran(run(clone, "invoke", "repro")) == ["train", "evaluate"]


def test_a_remote_gives_equal_bytes_to_a_fresh_clone(clone: Path, tmp_path: Path) -> None:
    address = "gs://bucket/dvc".replace("bucket", BUCKET)
    run(clone, "dvc", "remote", "add", "--default", "team", address)
    said = run(clone, "invoke", "data-push", expect=1, HOME=str(tmp_path))
    assert "GOOGLE_APPLICATION_CREDENTIALS" in said
    assert "Traceback" not in said

    run(clone, "dvc", "remote", "modify", "team", "allow_anonymous_login", "true")
    had = digests(clone / "data/raw")
    made = digests(clone / "runs/dvc")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "changed pictures")
    subprocess.run(["git", "add", "dvc.lock"], cwd=clone, check=True)
    run(clone, "dvc", "add", "-q", "data/raw")
    subprocess.run(git, cwd=clone, check=True)
    with gcs() as emulator:
        run(clone, "invoke", "data-push", STORAGE_EMULATOR_HOST=emulator)
        other = tmp_path / "other"
        subprocess.run(["git", "clone", "-q", str(clone), str(other)], check=True)
        shutil.rmtree(clone / ".dvc/cache")
        run(other, "invoke", "data-pull", STORAGE_EMULATOR_HOST=emulator)
        assert digests(other / "data/raw") == had
        run(other, "dvc", "pull", STORAGE_EMULATOR_HOST=emulator)
        assert digests(other / "runs/dvc") == made
    assert ran(run(other, "invoke", "repro")) == []
