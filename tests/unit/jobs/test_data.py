"""A folder becomes the current data set, or nothing changes and the reasons are told."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.data.manifest import Manifest, Row, load
from pulmo.errors import ConfigError, DataError, RefusedError
from pulmo.jobs.data import prepare, require_choices


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(120):
        path = tmp_path / "root" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return tmp_path / "root"


@pytest.fixture
def config(root: Path) -> Config:
    return compose(["data=folder", f"data.root={root}", "data.name=pets"])


def test_a_folder_becomes_the_current_data_set(config: Config, root: Path, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "data")
    assert load(tmp_path / "data", "pets") == prepared.dataset
    manifest = prepared.dataset.manifest
    assert manifest.classes == ("cat", "dog")
    assert manifest.channels == 3
    assert len(manifest.rows) == 120
    assert prepared.dataset.root == root
    assert prepared.report.errors == ()
    report = json.loads((tmp_path / "data" / "pets" / "report.json").read_text())
    assert report["digest"] == manifest.digest


def test_the_same_pictures_give_the_same_data_set(config: Config, tmp_path: Path) -> None:
    first = prepare(config, tmp_path / "data")
    assert prepare(config, tmp_path / "data") == first
    assert prepare(config, tmp_path / "other").dataset.manifest == first.dataset.manifest


def test_what_changed_since_the_last_time_is_told(
    config: Config, root: Path, tmp_path: Path
) -> None:
    first = prepare(config, tmp_path / "data")
    assert first.before is None
    row = next(row for row in first.dataset.manifest.rows if row.split == "train")
    (root / row.path).unlink()
    second = prepare(config, tmp_path / "data")
    had = first.report.counts["train"][row.label]
    assert second.before == first.dataset.manifest.digest
    assert second.changes == (f"train {row.label}: {had - 1} now, {had} before (-1)",)
    assert prepare(config, tmp_path / "data").before is None


def test_pictures_that_moved_are_the_same_data_set_in_another_place(
    config: Config, root: Path, tmp_path: Path
) -> None:
    first = prepare(config, tmp_path / "data").dataset
    moved = root.rename(tmp_path / "moved")
    data = config.data.model_copy(update={"root": str(moved)})
    second = prepare(config.model_copy(update={"data": data}), tmp_path / "data").dataset
    assert second.manifest == first.manifest
    assert load(tmp_path / "data", "pets").root == moved


def test_errors_refuse_the_data_and_leave_the_last_ones_current(
    config: Config, root: Path, tmp_path: Path
) -> None:
    first = prepare(config, tmp_path / "data").dataset
    for i in range(0, 10, 2):
        path = root / "cat" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:50])
    (root / "dog" / "0.png").write_bytes((root / "cat" / "20.png").read_bytes())
    with pytest.raises(RefusedError) as refused:
        prepare(config, tmp_path / "data")
    message = str(refused.value)
    assert "files that cannot be read: 5" in message
    assert "cat/0.png: the picture is damaged" in message
    assert "; …)" in message
    assert "pictures with two labels: 1" in message
    assert "cat/20.png (cat) = dog/0.png (dog)" in message
    assert str(tmp_path / "data" / "pets" / "report.json") in message
    assert load(tmp_path / "data", "pets") == first
    report = json.loads((tmp_path / "data" / "pets" / "report.json").read_text())
    assert len(report["findings"][0]["where"]) == 5


def test_nothing_readable_is_refused_too(config: Config, root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(RefusedError, match="files that cannot be read: 120"):
        prepare(config, tmp_path / "data")
    with pytest.raises(DataError):
        load(tmp_path / "data", "pets")


def test_a_name_that_leaves_the_data_folder_is_a_config_error(
    config: Config, tmp_path: Path
) -> None:
    data = config.data.model_copy(update={"name": "../pets"})
    with pytest.raises(ConfigError, match=r"data\.name"):
        prepare(config.model_copy(update={"data": data}), tmp_path / "data")


def test_the_phantom_needs_nothing_but_a_disk(tmp_path: Path) -> None:
    config = compose(["data=phantom", "data.phantom.images=150", "data.phantom.size=32"])
    prepared = prepare(config, tmp_path)
    assert prepared.dataset.manifest.classes == ("NORMAL", "PNEUMONIA")
    assert all(row.patient.startswith("pool/p") for row in prepared.dataset.manifest.rows)
    assert {finding.check for finding in prepared.report.findings} <= {"small_split"}


@pytest.mark.skipif("PULMO_SHARED_DATA" not in os.environ, reason="PULMO_SHARED_DATA is not set")
def test_real_pictures_have_duplicates_and_no_errors(tmp_path: Path) -> None:
    root = Path(os.environ["PULMO_SHARED_DATA"], "chest_xray")
    prepared = prepare(compose([f"data.root={root}"]), tmp_path)
    (finding,) = prepared.report.findings
    assert (finding.severity, finding.check, len(finding.where)) == ("warning", "duplicates", 28)
    counts = prepared.dataset.manifest.counts()
    assert counts["test"] == {"NORMAL": 121, "PNEUMONIA": 188}
    assert counts["excluded"] == {"NORMAL": 0, "PNEUMONIA": 0}
    assert counts["gate"]["NORMAL"] >= 100


def validated(labels: Sequence[str], *, patients: int = 100) -> Manifest:
    """Validation pictures of these classes in turn, of so many patients."""
    rows = [
        Row(f"{i}.png", labels[i % len(labels)], "val", f"{i % patients}", f"{i:064x}", f"{i:064x}")
        for i in range(30)
    ]
    return Manifest("pets", ("cat", "dog"), 3, tuple(rows))


@pytest.mark.parametrize(
    ("positive", "manifest", "told"),
    [
        ("cat", validated(["cat", "dog"]), None),
        ("null", validated(["cat", "dog"]), None),
        ("null", validated(["dog"]), None),
        ("cta", validated(["cat", "dog"]), r"data\.positive=cta, but .* pets shows cat, dog: name"),
        ("cat", validated(["dog"]), r"no validation picture of the data set pets shows cat: add"),
        ("cat", validated(["cat", "dog"], patients=1), "leave 0 of other patients"),
    ],
)
def test_what_a_models_limits_cannot_be_chosen_on_is_told(
    root: Path, positive: str, manifest: Manifest, told: str | None
) -> None:
    config = compose(["data=folder", f"data.root={root}", f"data.positive={positive}"])
    if told is None:
        require_choices(config, manifest)
        return
    with pytest.raises((ConfigError, DataError), match=told):
        require_choices(config, manifest)


def test_a_positive_class_is_one_of_two(root: Path) -> None:
    config = compose(["data=folder", f"data.root={root}", "data.positive=cat"])
    three = Manifest("pets", ("cat", "cow", "dog"), 3, validated(["cat", "cow", "dog"]).rows)
    with pytest.raises(ConfigError, match=r"cat, cow, dog: .* or set data\.positive=null"):
        require_choices(config, three)
