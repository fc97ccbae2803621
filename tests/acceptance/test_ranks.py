"""Two processes that train one model do what one alone does, and only the first one speaks."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ("data=phantom", "data.phantom.images=560", "data.phantom.size=64")
OVERRIDES = (
    *DATA,
    "debug=fast",
    "recipe.frozen_norms=true",
    "trainer.batch_size=16",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
)
LARGEST = 1e-4  # relative difference of the losses


def torchrun(folder: Path, *arguments: str, ranks: int = 2) -> "subprocess.CompletedProcess[str]":
    """The same command line in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, f"--nproc-per-node={ranks}", str(ROOT / "main.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(run: Path) -> list[dict[str, float]]:
    """What `metrics.csv` holds."""
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pulmo: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    pulmo(folder, "data", *DATA)
    return folder


def test_two_ranks_train_as_one_does(
    home: Path, pulmo: Callable[..., Any], tell: Callable[[str], None]
) -> None:
    pulmo(home, "train", *OVERRIDES, "run.dir=one")
    done = torchrun(home, "train", "--json", *OVERRIDES, "run.dir=two")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # one process has spoken, once
    one, two = losses(home / "one"), losses(home / "two")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert one[-1]["step"] >= 50
    apart = {
        name: max(abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(one, two, strict=True))
        for name in ("train_loss", "val_loss")
    }
    tell(f"after {one[-1]['step'] + 1:.0f} steps the losses differ by {apart}")
    assert max(apart.values()) <= LARGEST
    assert one[-1]["train_loss"] < one[0]["train_loss"]
    log = (home / "two/run.log").read_text()
    assert log.count("training small_cnn") == 1
    assert not list((home / "two").rglob("*.part"))
    lineage = json.loads((home / "two/lineage.json").read_text())
    assert lineage["notes"] == ["trained by 2 processes together"]
    assert told["name"] == "phantom-demo"


def test_a_model_of_two_ranks_is_staged_once(home: Path) -> None:
    done = torchrun(home, "train", "--stage", "--json", *OVERRIDES)
    assert done.returncode in (0, 1), done.stderr  # the tiny model may be refused by its tests
    listed = subprocess.run(
        [
            sys.executable,
            str(ROOT / "main.py"),
            "registry",
            "show",
            "phantom-demo:latest",
            "--json",
        ],
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(listed.stdout)["version"]["number"] == 0


def test_the_probe_is_refused_in_one_sentence(home: Path) -> None:
    done = torchrun(home, "train", *DATA, "recipe=probe", "run.dir=probe")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: recipe=probe")]
    assert len(said) == 1
    assert "recipe=finetune" in said[0]
    assert not (home / "probe").exists()
