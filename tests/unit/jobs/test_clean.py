"""What can be made again goes, what is in use stays."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from pulmo.config.compose import compose
from pulmo.data.manifest import load
from pulmo.jobs import clean as cleaning
from pulmo.jobs.clean import clean
from pulmo.jobs.data import prepare


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two states of a drawn data set, both with a cache, and what a killed process left."""
    for images in (60, 80):
        config = compose(["data=phantom", f"data.phantom.images={images}", "data.phantom.size=32"])
        folder = prepare(config, tmp_path).dataset.folder
        for suffix in ("npy", "sha256", "lock"):
            (folder / f"pixels-0123.{suffix}").write_bytes(b"1234")
    for name in (".manifest.csv.12.part", "raw/.abc.part/cat/1.png", "raw/.x.npz.part.json"):
        path = tmp_path / "phantom" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        for one in (path, *path.parents):
            if ".part" in one.name:
                os.utime(one, (0, 0))
    return tmp_path


def test_old_caches_raw_pictures_and_unfinished_files_go(data_dir: Path) -> None:
    current = load(data_dir, "phantom")
    told = clean(data_dir, dry_run=True)
    assert {one.reason for one in told} == {
        "unfinished", "cache of an earlier data set", "pictures of an earlier data set",
    }  # fmt: skip
    assert all(one.path.exists() and one.bytes > 0 for one in told)
    assert clean(data_dir) == told
    assert not any(one.path.exists() for one in told)
    assert clean(data_dir) == []
    assert load(data_dir, "phantom") == current
    assert current.root.is_dir()
    assert len(list(current.folder.glob("pixels-*"))) == 3
    assert len(list(data_dir.glob("phantom/*/manifest.csv"))) == 2


def test_what_is_still_being_written_stays(data_dir: Path) -> None:
    young = data_dir / "phantom" / "raw" / ".young.part"
    young.write_bytes(b"1")
    assert young not in {one.path for one in clean(data_dir)}
    assert young.exists()


def test_a_data_set_in_use_is_passed_over(data_dir: Path) -> None:
    with FileLock(data_dir / "phantom" / ".lock"):
        assert clean(data_dir) == []
    assert clean(data_dir) != []


def test_without_a_current_data_set_only_unfinished_files_go(data_dir: Path) -> None:
    (data_dir / "phantom" / "dataset.json").unlink()
    assert {one.reason for one in clean(data_dir)} == {"unfinished"}


def test_an_archive_that_was_unpacked_goes(data_dir: Path) -> None:
    root = load(data_dir, "phantom").root
    archive = root.with_suffix(".archive")
    archive.write_bytes(b"zip")
    other = root.with_name("not-unpacked.archive")
    other.write_bytes(b"zip")
    gone = {one.path: one.reason for one in clean(data_dir)}
    assert gone[archive] == "unpacked already"
    assert other.exists()


def test_nothing_to_clean_is_no_fault(tmp_path: Path) -> None:
    assert clean(tmp_path / "nothing") == []
    assert cleaning.ABANDONED_S > 0
