"""Registered models made again, bit for bit, by another clone that has nothing but addresses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODEL = "phantom-demo"

DATA = ("data=phantom", "data.phantom.images=400", "data.phantom.size=64")
RECIPES = (
    ("model=efficientnet_lite0", "recipe=probe", "model.image_size=64", "trainer.max_epochs=4"),
    ("model=small_cnn", "recipe=finetune", "model.image_size=48", "trainer.max_epochs=2"),
    ("model=small_cnn", "recipe=finetune", "model.image_size=48", "trainer.max_epochs=2", "seed=1"),
)
DONE, REFUSED = 0, 3


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment without this one's traces, with addresses that every clone shares."""
    shared = tmp_path_factory.mktemp("shared")
    foreign = ("VIRTUAL_ENV", "PULMO_", "COVERAGE_")
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(foreign)},
        "PULMO_DATA_URL": f"file://{shared}/data",
        "PULMO_REGISTRY_URL": f"sqlite:///{shared}/registry.db",
        "PULMO_FILES_URL": f"file://{shared}/bundles",
    }


def clone(source: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(source), str(folder)], check=True)
    return folder


def pulmo(
    folder: Path, places: dict[str, str], *arguments: str, expect: tuple[int, ...] = (DONE,)
) -> subprocess.CompletedProcess[str]:
    command = ["uv", "run", "--locked", "-q", "main.py", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=places, capture_output=True, text=True, check=False
    )
    assert done.returncode in expect, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def told(folder: Path, places: dict[str, str], *arguments: str) -> Any:
    return json.loads(pulmo(folder, places, *arguments, "--json").stdout)


def register(folder: Path, places: dict[str, str], run: str) -> subprocess.CompletedProcess[str]:
    """Stage a run: it is registered, whatever the gate says of so small a model."""
    return pulmo(folder, places, "registry", "stage", run, expect=(DONE, REFUSED))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, places: dict[str, str]) -> Path:
    """A clean clone that made the data and trained and registered three models."""
    folder = clone(ROOT, tmp_path_factory.mktemp("workshop") / "pulmo")
    pulmo(folder, places, "data", *DATA)
    pulmo(folder, places, "data-push", *DATA)
    for number, recipe in enumerate(RECIPES):
        run = f"runs/{number}"
        pulmo(folder, places, "train", *DATA, *recipe, f"run.dir={run}")
        register(folder, places, run)
    return folder


@pytest.fixture(scope="module")
def elsewhere(
    tmp_path_factory: pytest.TempPathFactory, workshop: Path, places: dict[str, str]
) -> Path:
    return clone(ROOT, tmp_path_factory.mktemp("elsewhere") / "a clone")


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_registered_model_is_made_again_bit_for_bit(
    elsewhere: Path, places: dict[str, str], number: int
) -> None:
    found = told(elsewhere, places, "reproduce", f"{MODEL}:v{number}")
    assert found["same"], found
    names = [line["name"] for line in found["lines"]]
    assert names[:3] == ["weights", "graph", "model digest"]
    assert "val auroc" in names
    assert all(line["recorded"] == line["reproduced"] for line in found["lines"])
    assert found["circumstances"] == []
    assert (elsewhere / found["run_dir"] / "weights.safetensors").is_file()
    trees = subprocess.run(
        ["git", "worktree", "list"], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert len(trees.stdout.splitlines()) == 1


def test_a_model_from_an_unclean_tree_says_so_and_is_refused(
    workshop: Path, elsewhere: Path, places: dict[str, str]
) -> None:
    (workshop / "README.md").write_text("changed")
    pulmo(workshop, places, "train", *DATA, *RECIPES[1], "seed=2", "run.dir=runs/unclean")
    staged = register(workshop, places, "runs/unclean")
    assert f"{MODEL}:v3 can never be reproduced: it was trained with uncommitted" in staged.stderr
    assert (
        "can never be reproduced"
        in pulmo(elsewhere, places, "registry", "show", f"{MODEL}:v3").stdout
    )
    refused = pulmo(elsewhere, places, "reproduce", f"{MODEL}:v3", expect=(REFUSED,))
    assert "uncommitted changes" in refused.stderr
