"""validate, init and clean as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(100):
        path = tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return tmp_path / "pets"


def test_a_folder_is_described_validated_made_and_cleaned(cli: Cli, root: Path) -> None:
    code, out, err = cli("init", root)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "next  pulmo data data=pets"
    code, out, _ = cli("validate", "data=pets", "--reference", "save")
    assert code == 0
    assert out.splitlines()[0].split() == ["split", "cat", "dog", "all"]
    assert out.splitlines()[-1] == f"page  {root.parent / 'data' / 'pets' / 'report.html'}"
    assert cli("data", "data=pets")[0] == 0
    code, out, _ = cli("clean", "--dry-run")
    assert (code, out.split()) == (0, ["0.0", "MB", "would", "be", "removed"])


def test_errors_end_with_three_and_are_told_with_places(cli: Cli, root: Path) -> None:
    for i in range(5):
        (root / "cat" / f"{2 * i}.png").write_bytes(b"")
    code, out, err = cli("validate", "data=folder", f"data.root={root}")
    assert code == 3
    assert "error: files that cannot be read: 5" in out
    assert "    cat/0.png: not a picture" in out
    assert "    … 2 more" in out
    assert err.startswith("error: the data set folder has errors")
    code, out, _ = cli("validate", "data=folder", f"data.root={root}", "--json")
    told = json.loads(out)
    assert code == 3
    assert told["report"]["findings"][0]["check"] == "unreadable"
    assert Path(told["page"]).is_file()


def test_programs_can_read_what_was_described_and_removed(cli: Cli, root: Path) -> None:
    told = json.loads(cli("init", root, "--name", "mine", "--json")[1])
    assert (told["name"], told["path"]) == ("mine", "configs/data/mine.yaml")
    assert json.loads(cli("clean", "--json")[1]) == {"removed": [], "dry_run": False}
    cli("data", "data=phantom", "data.phantom.images=60", "data.phantom.size=32")
    first = json.loads(cli("data", "data=phantom", "data.phantom.size=32", "--json")[1])
    assert first["report"]["name"] == "phantom"
    code, out, _ = cli("clean")
    assert code == 0
    assert "(pictures of an earlier data set)" in out
