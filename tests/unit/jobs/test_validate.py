"""The split doctor looks, tells, writes a page, and changes nothing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.data.manifest import load
from pulmo.errors import ConfigError, DataError, RefusedError
from pulmo.jobs.data import REPORT, allowed_errors, prepare
from pulmo.jobs.validate import validate


def draw(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((60, 60), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(120):
        draw(tmp_path / "root" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return tmp_path / "root"


@pytest.fixture
def config(root: Path) -> Config:
    return compose(["data=folder", f"data.root={root}", "data.name=pets"])


def without_root(config: Config) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"root": None})})


def minding(config: Config, **doctor: Any) -> Config:
    changed = type(config.doctor).model_validate({**config.doctor.model_dump(), **doctor})
    return config.model_copy(update={"doctor": changed})


def spoil(root: Path) -> None:
    Image.new("L", (60, 60), 9).save(root / "cat" / "blank.png")
    (root / "dog" / "half.png").write_bytes((root / "dog" / "1.png").read_bytes()[:300])
    (root / "cat" / "copy.png").write_bytes((root / "dog" / "3.png").read_bytes())


def test_a_data_set_yet_to_be_made_is_examined_and_not_made(config: Config, tmp_path: Path) -> None:
    found = validate(config, tmp_path / "data")
    assert found.report.errors == ()
    assert json.loads(found.document.read_bytes())["digest"] == found.report.digest
    with pytest.raises(DataError, match="no data set 'pets'"):
        load(tmp_path / "data", "pets")


def test_a_prepared_one_is_found_where_it_lay(config: Config, tmp_path: Path) -> None:
    made = prepare(config, tmp_path / "data")
    assert validate(without_root(config), tmp_path / "data").report == made.report
    with pytest.raises(ConfigError, match="where are the pictures"):
        validate(without_root(config), tmp_path / "elsewhere")


def test_the_page_shows_the_pictures_in_question_without_a_network(
    config: Config, root: Path, tmp_path: Path
) -> None:
    spoil(root)
    found = validate(config, tmp_path / "data")
    assert {one.check for one in found.report.errors} == {"unreadable", "blank", "label_conflict"}
    text = found.page.read_text(encoding="utf-8")
    for told in ("error: label conflict", "cat/copy.png", "dog/half.png", "The darkest"):
        assert told in text
    assert text.count("data:image/jpeg;base64,") >= 3 + 4 * 6
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "<script" not in text
    assert found.page.stat().st_size < 5 * 2**20


def test_a_name_cannot_write_into_the_page(config: Config, root: Path, tmp_path: Path) -> None:
    (root / "cat" / "<img src=x onerror=alert(1)>.png").write_bytes(b"")
    (root / "cat" / "0.png").rename(root / "cat" / "<b>.png")
    draw(root / "cat" / "<b> again.png", 0)
    text = validate(config, tmp_path / "data").page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<b>.png" not in text
    assert "&lt;b&gt; again.png" in text


def test_a_page_can_be_made_of_nothing_readable(config: Config, root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    found = validate(config, tmp_path / "data")
    assert "No picture could be read." in found.page.read_text(encoding="utf-8")


def test_a_picture_that_goes_meanwhile_is_named_without_its_look(
    config: Config, root: Path, tmp_path: Path
) -> None:
    from pulmo.jobs.data import examine
    from pulmo.jobs.validation_page import render

    spoil(root)
    seen = examine(config, tmp_path / "data")
    (root / "cat" / "copy.png").unlink()
    assert "cat/copy.png" in render(config, seen)


def test_a_saved_reference_is_what_later_pictures_are_held_against(
    config: Config, root: Path, tmp_path: Path
) -> None:
    saved = validate(config, tmp_path / "data", save_reference=True)
    assert saved.reference == tmp_path / "data" / "pets" / "reference.json"
    assert validate(config, tmp_path / "data").report.findings == saved.report.findings
    for path in sorted(root.rglob("*.png"))[:60]:
        with Image.open(path) as image:
            dark = image.point(lambda value: value // 3)
        dark.save(path)
    (finding,) = (f for f in validate(config, tmp_path / "data").report.findings
                  if f.check == "drift")  # fmt: skip
    assert any(line.startswith("brightness: ") for line in finding.where)
    saved.reference.write_text("{}")
    with pytest.raises(DataError, match="save the reference again"):
        validate(config, tmp_path / "data")


def test_counts_are_held_against_another_state_of_the_data(
    config: Config, root: Path, tmp_path: Path
) -> None:
    before = prepare(config, tmp_path / "data").dataset.manifest.digest
    for i in range(120, 180):
        draw(root / "dog" / f"{i}.png", i)
    report = validate(config, tmp_path / "data", against=before).report
    (finding,) = (one for one in report.findings if one.check == "counts")
    assert any(re.fullmatch(r"train dog: \d+ now, \d+ before \(\+\d+\)", w) for w in finding.where)
    with pytest.raises(DataError, match="has the digest"):
        validate(config, tmp_path / "data", against="0" * 64)


def test_data_with_errors_can_be_allowed_and_a_model_remembers_it(
    config: Config, root: Path, tmp_path: Path
) -> None:
    spoil(root)
    with pytest.raises(RefusedError, match="files that cannot be read: 1"):
        prepare(config, tmp_path / "data")
    made = prepare(minding(config, allow_errors=True), tmp_path / "data")
    assert len(made.report.errors) == 3
    with pytest.raises(RefusedError, match=r"doctor\.allow_errors=true"):
        allowed_errors(made.dataset, config.doctor)
    notes = allowed_errors(made.dataset, minding(config, allow_errors=True).doctor)
    assert len(notes) == 3
    assert "data with errors, allowed: pictures with two labels: 1; keep one file of each" in notes


def test_severity_is_weighed_anew_before_a_training(config: Config, tmp_path: Path) -> None:
    made = prepare(config, tmp_path / "data").dataset
    assert allowed_errors(made, config.doctor) == ()
    strict = minding(config, severity={"small_split": "error"}).doctor
    with pytest.raises(RefusedError, match="too few pictures to judge by"):
        allowed_errors(made, strict)
    (made.folder / REPORT).write_text('{"findings": [{"check": "magic"}]}')
    with pytest.raises(DataError, match="make the data set again"):
        allowed_errors(made, config.doctor)
    (made.folder / REPORT).unlink()
    assert allowed_errors(made, config.doctor) == ()
