"""Data under DVC: only what changed runs again, and a remote gives back equal bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cloned import digests, git, make, run
from services import BUCKET, gcs

STAGES = ["data", "validate", "train", "evaluate"]
QUICK = 'train: "model=small_cnn recipe=finetune model.image_size=32 trainer.max_epochs=1"'


def ran(said: str) -> list[str]:
    """The stages that a reproduction ran."""
    return [name for name in STAGES if f"Running stage '{name}'" in said]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("versions") / "pulmo")
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text("utf-8").replace('train: ""', QUICK), "utf-8")
    return folder


def test_only_what_changed_runs_again(clone: Path, tell: Callable[[str], None]) -> None:
    recorded = (clone / "data/raw.dvc").read_text("utf-8")
    run(clone, "invoke", "draw")
    assert (clone / "data/raw.dvc").read_text("utf-8") == recorded
    assert ran(run(clone, "invoke", "repro")) == STAGES
    assert ran(run(clone, "invoke", "repro")) == []

    min((clone / "data/raw/NORMAL").iterdir()).unlink()
    said = run(clone, "invoke", "repro")
    tell(next(line for line in said.splitlines() if "other pictures than" in line))
    assert ran(said) == STAGES
    assert "other pictures than" in said
    assert "(-1)" in said

    recipe = clone / "configs/recipe/finetune.yaml"
    recipe.write_text(recipe.read_text("utf-8") + "# changed\n", "utf-8")
    assert ran(run(clone, "invoke", "repro")) == ["train", "evaluate"]
    tell("reproduced twice: nothing ran; one picture less: all stages; a recipe: train, evaluate")


def test_a_remote_gives_equal_bytes_to_a_fresh_clone(
    clone: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    address = "gs://bucket/dvc".replace("bucket", BUCKET)
    run(clone, "dvc", "remote", "add", "--default", "team", address)
    said = run(clone, "invoke", "data-push", expect=1, HOME=str(tmp_path))
    assert "GOOGLE_APPLICATION_CREDENTIALS" in said
    assert "Traceback" not in said

    run(clone, "dvc", "remote", "modify", "team", "allow_anonymous_login", "true")
    had = digests(clone / "data/raw")
    made = digests(clone / "runs/dvc")
    run(clone, "dvc", "add", "-q", "data/raw")
    git(clone, "add", "dvc.lock")
    git(clone, "commit", "-qam", "changed pictures")
    with gcs() as emulator:
        run(clone, "invoke", "data-push", STORAGE_EMULATOR_HOST=emulator)
        other = tmp_path / "other"
        git(tmp_path, "clone", "-q", str(clone), str(other))
        shutil.rmtree(clone / ".dvc/cache")
        run(other, "invoke", "data-pull", STORAGE_EMULATOR_HOST=emulator)
        assert digests(other / "data/raw") == had
        run(other, "dvc", "pull", STORAGE_EMULATOR_HOST=emulator)
        assert digests(other / "runs/dvc") == made
    assert ran(run(other, "invoke", "repro")) == []
    tell(f"pushed and pulled: {len(had)} pictures and {len(made)} files of a run, equal bytes")
