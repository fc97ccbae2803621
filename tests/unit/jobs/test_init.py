"""A folder of pictures is described so that the description works at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.compose import compose
from pulmo.errors import ConfigError, DataError
from pulmo.jobs.data import prepare
from pulmo.jobs.init import guess_patient, init


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey pictures, three of each patient, with split folders; the current folder is empty."""
    root = tmp_path / "My Pictures"
    for i in range(90):
        path = root / ("Train", "test")[i % 9 == 0] / ("cat", "dog")[i % 2] / f"pet{i // 3}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (70, 100), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return root


def test_what_is_written_is_a_data_set_that_can_be_made(pictures: Path, tmp_path: Path) -> None:
    made = init(pictures)
    assert made.path == Path("configs/data/my-pictures.yaml")
    config = compose([f"data={made.name}"])
    assert config.data.classes == ["cat", "dog"]
    assert (config.data.channels, config.model.image_size) == (1, 64)
    assert config.data.splits.official == {"test": "test", "train": "pool"}
    assert config.registry.name == "my-pictures"
    manifest = prepare(config, tmp_path / "data").dataset.manifest
    assert {row.patient for row in manifest.rows if row.split != "test"} >= {"pool/pet1"}
    assert made.seen[0] == "90 pictures: 45 cat, 45 dog"


def test_colour_is_seen(pictures: Path) -> None:
    first = next(pictures.rglob("*.png"))
    for path in pictures.rglob("*.png"):
        Image.new("RGB", (40, 40), (200, 10, 10)).save(path)
    first.write_bytes(b"damaged")
    init(pictures, "red")
    assert compose(["data=red"]).data.channels == 3


def test_a_name_that_is_taken_is_refused(pictures: Path, tmp_path: Path) -> None:
    init(pictures, "mine")
    with pytest.raises(ConfigError, match="described already"):
        init(pictures, "mine")
    with pytest.raises(ConfigError, match="described already"):
        init(pictures, "chest_xray")
    with pytest.raises(ConfigError, match="cannot name a data set"):
        init(pictures, "My Name")
    made = init(pictures, "chest_xray", tmp_path / "other.yaml")
    assert made.path.read_text().startswith("# @package _global_")


def test_what_is_no_folder_of_classes_is_said(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        init(tmp_path / "nothing")
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="can be read"):
        init(pictures)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"patient{i // 4}_{i}.png" for i in range(100)], "patient7"),
        ([f"p{i // 4:03}-view{i}.png" for i in range(100)], "p007"),
        ([f"study_{i // 4}_{i}.dcm" for i in range(100)], "study_7"),
        ([f"{i}.png" for i in range(100)], None),
        ([f"scan_{i}.png" for i in range(100)], None),
        ([], None),
    ],
)
def test_patients_are_guessed_where_names_repeat(names: list[str], expected: str | None) -> None:
    import re

    pattern = guess_patient(names)
    match = re.search(pattern, names[28]) if pattern else None
    assert (match[1] if match else None) == expected
