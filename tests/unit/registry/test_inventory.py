"""What lies in a store of files, in a folder and at a URL."""

import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from pulmo.core.bundle import FILES, SUMS, Bundle, verify
from pulmo.errors import RegistryError
from pulmo.registry import inventory as module
from pulmo.registry.files import open_files
from pulmo.registry.inventory import Inventory, Piece, open_inventory

OTHER = "f" * 64
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC).timestamp()


@pytest.fixture(params=["folder", "file", "local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "store"
    memory = f"memory://{uuid.uuid4().hex}/bundles"
    urls = {"folder": str(folder), "file": f"file://{folder}", "local": f"local://{folder}"}
    return urls.get(request.param, memory)


@pytest.fixture
def inventory(url: str, toy_bundle: Bundle, tmp_path: Path) -> Inventory:
    """With one bundle."""
    open_files(url, cache=tmp_path / "cache").store(toy_bundle)
    return open_inventory(url)


def kinds(inventory: Inventory) -> dict[str, str]:
    return {piece.name: piece.kind for piece in inventory.pieces()}


def put(url: str, path: str) -> None:
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
    system.pipe_file(f"{root}/{path}", b"four")


def test_nothing_lies_where_nothing_was_stored(url: str) -> None:
    assert open_inventory(url).pieces() == []


def test_a_bundle_is_listed_with_its_size(inventory: Inventory, toy_bundle: Bundle) -> None:
    (piece,) = inventory.pieces()
    size = sum((toy_bundle.path / name).stat().st_size for name in (*FILES, SUMS))
    assert (piece.name, piece.kind, piece.bytes) == (toy_bundle.digest, "bundle", size)
    assert datetime.now(UTC) - piece.modified < timedelta(minutes=10)


def test_a_bundle_is_opened_as_it_lies(inventory: Inventory, toy_bundle: Bundle) -> None:
    with inventory.opened(toy_bundle.digest) as folder:
        assert verify(folder).digest == toy_bundle.digest
    with inventory.opened(OTHER) as folder:
        assert not list(folder.glob("*"))


def test_a_removed_bundle_leaves_nothing(inventory: Inventory, url: str) -> None:
    for piece in inventory.pieces():
        inventory.remove(piece)
    assert inventory.pieces() == []


def test_what_is_not_ours_is_foreign(inventory: Inventory, url: str, toy_bundle: Bundle) -> None:
    put(url, "notes.txt")
    put(url, "other/thing")
    expected = {toy_bundle.digest: "bundle", "notes.txt": "foreign", "other": "foreign"}
    assert kinds(inventory) == expected


@pytest.mark.parametrize("url", ["local", "memory"], indirect=True)
def test_an_upload_without_sums_is_young_first_and_a_leftover_then(
    inventory: Inventory, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(url, f"{OTHER}/README.md")
    assert kinds(inventory)[OTHER] == "writing"
    monkeypatch.setattr(module, "GRACE", timedelta(0))
    assert kinds(inventory)[OTHER] == "leftover"
    inventory.remove(next(piece for piece in inventory.pieces() if piece.name == OTHER))
    assert OTHER not in kinds(inventory)


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_unfinished_folders_are_left_alone_while_they_are_young(
    inventory: Inventory, tmp_path: Path
) -> None:
    for name in (".new-1", ".new-2", ".damaged-1", ".gone-1"):
        (tmp_path / "store" / name).mkdir()
        (tmp_path / "store" / name / "model.onnx").write_bytes(b"four")
    for path in (tmp_path / "store" / ".new-2", tmp_path / "store" / ".new-2" / "model.onnx"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    found = {piece.name: (piece.kind, piece.bytes) for piece in inventory.pieces()}
    assert found[".new-1"] == ("writing", 4)
    assert found[".new-2"] == found[".damaged-1"] == found[".gone-1"] == ("leftover", 4)


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_what_vanishes_meanwhile_is_neither_listed_nor_missed(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = tmp_path / "store" / ".damaged-1"
    (leftover / "inner").mkdir(parents=True)
    pieces, remove, status = inventory.pieces(), shutil.rmtree, module._status

    def vanish(path: Path) -> os.stat_result | None:
        remove(leftover, ignore_errors=True)
        return status(path)

    monkeypatch.setattr(module, "_status", vanish)
    assert [piece.kind for piece in inventory.pieces()] == ["bundle"]
    for piece in pieces:
        inventory.remove(piece)
    assert inventory.pieces() == []


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_link_is_no_bundle_and_is_never_followed(inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "store" / OTHER).symlink_to(tmp_path)
    assert kinds(inventory)[OTHER] == "foreign"


def test_what_cannot_be_removed_is_told(inventory: Inventory) -> None:
    gone = Piece(OTHER, "bundle", 0, datetime.now(UTC))
    with pytest.raises(RegistryError, match="the bundles at"):
        inventory.remove(gone)


def test_an_unknown_protocol_is_told() -> None:
    with pytest.raises(RegistryError, match="cannot be reached or used"):
        open_inventory("nonsense://x")
