"""Archives are unpacked whole and safely, or refused."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.data import archives
from pulmo.data.archives import brought, descend, unpack
from pulmo.data.download import Remote
from pulmo.errors import DataError

Write = Callable[[Path, dict[str, bytes]], None]


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(params=[write_zip, write_tar], ids=["zip", "tar"])
def write(request: pytest.FixtureRequest) -> Write:
    made: Write = request.param
    return made


def refused(archive: Path, target: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        unpack(archive, target)
    assert [path for path in target.parent.iterdir() if path != archive] == []


def test_files_come_out_as_they_went_in(write: Write, tmp_path: Path) -> None:
    members = {"set/cat/1.png": b"one", "set/dog/2.png": b"two" * 200_000, "set/empty": b""}
    write(tmp_path / "a", members)
    unpack(tmp_path / "a", tmp_path / "out")
    assert {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    } == members
    assert {path.name for path in tmp_path.iterdir()} == {"a", "out"}


@pytest.mark.parametrize("name", ["../out.png", "a/../../b", "/etc/passwd", "a\\b", "C:/b"])
def test_what_would_lie_outside_is_refused(write: Write, tmp_path: Path, name: str) -> None:
    write(tmp_path / "a", {"fine.png": b"1", name: b"2"})
    refused(tmp_path / "a", tmp_path / "out", "would lie outside")


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a", tmp_path / "out", "link or device")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "a", "w") as tar:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        refused(tmp_path / "a", tmp_path / "out", "link or device")


def test_bombs_are_bounded(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000_000)
    write(tmp_path / "a", {str(i): bytes(400_000) for i in range(3)})
    refused(tmp_path / "a", tmp_path / "out", "more than there is room for")
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    write(tmp_path / "a", {str(i): b"" for i in range(3)})
    refused(tmp_path / "a", tmp_path / "out", "more than 2 files")


def test_a_name_that_is_there_twice_is_refused(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": b"1", "./x": b"2"})
    refused(tmp_path / "a", tmp_path / "out", "cannot be unpacked")


def test_a_damaged_archive_leaves_nothing(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": bytes(range(256)) * 5000})
    whole = (tmp_path / "a").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "a").write_bytes(whole[:middle] + b"\xff" * 40 + whole[middle + 40 :])
    refused(tmp_path / "a", tmp_path / "out", "damaged")
    (tmp_path / "a").write_bytes(b"no archive at all")
    refused(tmp_path / "a", tmp_path / "out", "neither a ZIP nor a TAR")


def test_an_archive_is_brought_and_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Remote] = []

    def fetch(remote: Remote, target: Path) -> Path:
        fetched.append(remote)
        target.parent.mkdir(parents=True)
        write_zip(target, {"cat/1.png": b"1"})
        return target

    monkeypatch.setattr(archives, "fetch", fetch)
    remote = Remote(("http://host/a.zip",))
    folder = brought(remote, tmp_path / "raw")
    assert folder == tmp_path / "raw" / remote.key
    assert (folder / "cat" / "1.png").read_bytes() == b"1"
    assert brought(remote, tmp_path / "raw") == folder
    assert len(fetched) == 1


def test_wrapping_folders_are_passed_through(tmp_path: Path) -> None:
    (tmp_path / "one" / "two" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "two" / "dog").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert descend(tmp_path, ()) == tmp_path / "one" / "two"
    (tmp_path / "split" / "Train" / "cat").mkdir(parents=True)
    assert descend(tmp_path / "split", {"train": "pool"}) == tmp_path / "split"
