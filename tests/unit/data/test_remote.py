"""A pushed data set is the same one on another machine, or an error; never half of one."""

import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from pulmo.core.bundle import sha256
from pulmo.data import remote
from pulmo.data.manifest import INFO, TABLE, DataSet, Manifest, Row, store
from pulmo.data.remote import PICTURES, find, push
from pulmo.errors import ConfigError, DataError

Draw = Callable[[Path, int], Path]


@pytest.fixture
def dataset(tmp_path: Path, draw: Draw) -> DataSet:
    rows = []
    for number in range(6):
        path = f"{('cat', 'dog')[number % 2]}/picture #{number}.png"
        digest = sha256(draw(tmp_path / "source" / path, number // 2).read_bytes())
        rows.append(Row(path, path[:3], "train", digest[:16], digest, digest))
    manifest = Manifest("pets", ("cat", "dog"), 1, tuple(sorted(rows)))
    return store(manifest, tmp_path / "source", tmp_path / "here")


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"local://{tmp_path}/there" if request.param == "local" else f"memory://{uuid4().hex}/"


@pytest.fixture
def place(dataset: DataSet, tmp_path: Path) -> Path:
    """Where a pushed data set lies, to be tampered with."""
    push(dataset, f"local://{tmp_path}/there")
    return tmp_path / "there" / dataset.manifest.digest


def test_what_is_pushed_is_found_by_its_digest_elsewhere(
    dataset: DataSet, url: str, tmp_path: Path
) -> None:
    digest = dataset.manifest.digest
    assert push(dataset, url) == f"{url.rstrip('/')}/{digest}"
    elsewhere = tmp_path / "elsewhere"
    found = find(elsewhere, url, digest)
    assert found.manifest == dataset.manifest
    for row in dataset.manifest.rows:
        assert found.path(row).read_bytes() == dataset.path(row).read_bytes()
    assert not (elsewhere / "pets" / INFO).exists()  # which one is current is not its business
    assert find(elsewhere, None, digest) == found


def test_a_data_set_of_this_machine_needs_no_url(dataset: DataSet, tmp_path: Path) -> None:
    assert find(tmp_path / "here", None, dataset.manifest.digest) == dataset


def test_no_path_of_a_machine_is_pushed(dataset: DataSet, place: Path, tmp_path: Path) -> None:
    assert str(tmp_path) not in (place / INFO).read_text()
    names = {path.name for path in (place / PICTURES).iterdir()}
    assert names == {row.sha256 for row in dataset.manifest.rows}
    assert len(names) == 3


def test_a_second_push_sends_only_what_is_missing_or_torn(
    dataset: DataSet, place: Path, tmp_path: Path
) -> None:
    torn, whole, gone = sorted((place / PICTURES).iterdir())
    torn.write_bytes(b"x")
    gone.unlink()
    before = whole.stat().st_mtime_ns
    push(dataset, f"local://{tmp_path}/there")
    assert sha256(torn.read_bytes()) == torn.name
    assert sha256(gone.read_bytes()) == gone.name
    assert whole.stat().st_mtime_ns == before


def test_a_changed_picture_is_not_pushed(dataset: DataSet, url: str) -> None:
    dataset.path(dataset.manifest.rows[-1]).write_bytes(b"other")
    with pytest.raises(DataError, match="has changed since"):
        push(dataset, url)


def test_a_data_set_that_is_nowhere_is_said_with_what_to_do(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PULMO_DATA_URL"):
        find(tmp_path, None, "0" * 64)
    with pytest.raises(DataError, match="pulmo data-push"):
        find(tmp_path, url, "0" * 64)


def fetch(dataset: DataSet, tmp_path: Path) -> DataSet:
    return find(tmp_path / "elsewhere", f"local://{tmp_path}/there", dataset.manifest.digest)


def test_a_torn_picture_is_refused_and_fetched_once_it_is_whole(
    dataset: DataSet, place: Path, tmp_path: Path
) -> None:
    torn = min((place / PICTURES).iterdir())
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="another picture"):
        fetch(dataset, tmp_path)
    with pytest.raises(DataError, match="no data set"):
        find(tmp_path / "elsewhere", None, dataset.manifest.digest)
    torn.write_bytes(whole)
    assert fetch(dataset, tmp_path).manifest == dataset.manifest


def test_an_interrupted_fetch_goes_on_where_it_was(
    dataset: DataSet, place: Path, tmp_path: Path
) -> None:
    missing = max((place / PICTURES).iterdir())
    missing.rename(place / "aside")
    with pytest.raises(DataError, match="cannot be reached or used: FileNotFoundError"):
        fetch(dataset, tmp_path)
    (part,) = (tmp_path / "elsewhere" / "pets").glob(".*.fetched")
    rows = [row for row in dataset.manifest.rows if row.sha256 != missing.name]
    for row in rows:  # as if all of them had come
        path = part / PICTURES / row.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.path(row).read_bytes())
        (place / PICTURES / row.sha256).unlink(missing_ok=True)
    (place / "aside").rename(missing)
    assert fetch(dataset, tmp_path).manifest == dataset.manifest
    assert not part.exists()


@pytest.mark.parametrize(
    ("info", "message"),
    [(b"{", "damaged"), (b"[]", "describes no data set"), (b'{"name": "pets"}', "damaged")],
)
def test_a_damaged_description_is_refused(
    dataset: DataSet, place: Path, tmp_path: Path, info: bytes, message: str
) -> None:
    (place / INFO).write_bytes(info)
    with pytest.raises(DataError, match=message):
        fetch(dataset, tmp_path)


def test_a_name_that_is_no_folder_is_refused(dataset: DataSet, place: Path, tmp_path: Path) -> None:
    document = json.loads((place / INFO).read_text())
    (place / INFO).write_text(json.dumps({**document, "name": "../../pets"}))
    with pytest.raises(ConfigError, match="cannot name a folder"):
        fetch(dataset, tmp_path)


def test_a_changed_table_brings_no_picture(dataset: DataSet, place: Path, tmp_path: Path) -> None:
    table = place / TABLE
    table.write_bytes(table.read_bytes().replace(b"train", b"gate"))
    with pytest.raises(DataError, match="does not hold the data set"):
        fetch(dataset, tmp_path)
    assert not list((tmp_path / "elsewhere").rglob("*.png"))


@pytest.mark.parametrize("path", ["../evil.png", "/tmp/evil.png"])
def test_a_picture_outside_the_data_set_is_refused(tmp_path: Path, path: str) -> None:
    encoded = b"picture"
    row = Row(path, "cat", "train", "p", sha256(encoded), "0" * 64)
    manifest = Manifest("pets", ("cat", "dog"), 1, (row,))
    evil = store(manifest, tmp_path, tmp_path / "here")
    system = fsspec.filesystem("memory")
    place = f"memory://{uuid4().hex}"
    root = f"{place}/{manifest.digest}"
    system.pipe_file(f"{root}/{PICTURES}/{row.sha256}", encoded)
    system.pipe_file(f"{root}/{TABLE}", manifest.table())
    system.pipe_file(f"{root}/{INFO}", (evil.folder / INFO).read_bytes())
    with pytest.raises(DataError, match="outside"):
        find(tmp_path / "elsewhere", place, manifest.digest)


def test_another_process_may_have_fetched_it_first(
    dataset: DataSet, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(dataset, tmp_path)

    def not_yet(*_: object) -> DataSet:
        raise DataError("not yet")

    monkeypatch.setattr(remote.manifest, "find", not_yet)
    assert fetch(dataset, tmp_path).manifest == dataset.manifest


def test_an_unknown_protocol_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PULMO_DATA_URL"):
        find(tmp_path, "nonsense://x", "0" * 64)
