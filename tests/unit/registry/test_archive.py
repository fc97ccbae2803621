"""The file of a backup: every byte of it follows from its manifest, or it is refused."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.core.bundle import FILES, SUMS, Bundle
from pulmo.errors import RegistryError
from pulmo.registry.archive import (
    MANIFEST,
    ROWS,
    SEAL,
    Archive,
    Manifest,
    entry_of,
    open_archive,
    write_archive,
)


@pytest.fixture
def whole(tmp_path: Path, toy_bundle: Bundle) -> Path:
    rows = tmp_path / ROWS
    rows.write_bytes(b"rows\n" * 300)
    names = [f"bundles/{toy_bundle.digest}/{name}" for name in (*FILES, SUMS)]
    sources = [rows, *(toy_bundle.path / Path(name).name for name in names)]
    write(tmp_path / "b.tar", [ROWS, *names], sources)
    return tmp_path / "b.tar"


def write(path: Path, names: list[str], sources: list[Path]) -> None:
    entries = tuple(entry_of(n, source) for n, source in zip(names, sources, strict=True))
    write_archive(
        path, Manifest(pulmo="0", registry_schema="1", created_at="", entries=entries), sources
    )


def read(path: Path, folder: Path) -> Archive:
    """Everything that is in an archive."""
    folder.mkdir(exist_ok=True)
    archive = open_archive(path)
    archive.rows(folder)
    for digest in archive.bundles:
        archive.bundle(digest, folder)
    return archive


def test_what_was_written_is_read(whole: Path, toy_bundle: Bundle, tmp_path: Path) -> None:
    archive = read(whole, tmp_path / "out")
    assert archive.bundles == [toy_bundle.digest]
    assert (tmp_path / "out" / ROWS).read_bytes() == b"rows\n" * 300
    for name in (*FILES, SUMS):
        assert (tmp_path / "out" / name).read_bytes() == (toy_bundle.path / name).read_bytes()


def test_any_tar_lists_it(whole: Path) -> None:
    with tarfile.open(whole) as archive:
        names = archive.getnames()
    assert (names[0], names[1], names[-1]) == (MANIFEST, ROWS, SEAL)


def test_an_archive_is_there_wholly_or_not_at_all(whole: Path, tmp_path: Path) -> None:
    before = whole.read_bytes()
    rows = tmp_path / ROWS
    entry = entry_of(ROWS, rows)
    rows.write_bytes(b"other")
    manifest = Manifest(pulmo="0", registry_schema="1", created_at="", entries=(entry,))
    with pytest.raises(RegistryError, match="does not match its digest"):
        write_archive(whole, manifest, [rows])
    with pytest.raises(RegistryError, match="cannot be read or written"):
        write_archive(tmp_path / "nowhere" / "b.tar", manifest, [rows])
    assert whole.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", ROWS]


def test_every_flipped_bit_is_found(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    draw = random.Random(0)
    places = {
        *range(0, 600, 7),
        *draw.sample(range(len(data)), 150),
        *range(len(data) - 3000, len(data), 41),
    }
    for place in places:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << draw.randrange(8)
        whole.write_bytes(spoilt)
        with pytest.raises(RegistryError):
            read(whole, tmp_path / "out")


def test_a_cut_or_longer_archive_is_refused(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for length in (0, 1, 511, 512, 600, 5000, len(data) - 1024, len(data) - 1):
        whole.write_bytes(data[:length])
        with pytest.raises(RegistryError):
            read(whole, tmp_path / "out")
    whole.write_bytes(data + b"\0")
    with pytest.raises(RegistryError, match="something follows its end"):
        open_archive(whole)


def member(name: str, data: bytes = b"", **about: object) -> tuple[tarfile.TarInfo, bytes]:
    one = tarfile.TarInfo(name)
    one.size, one.mode = len(data), 0o644
    for key, value in about.items():
        setattr(one, key, value)
    return one, data


def manifest(*names: str) -> tuple[tarfile.TarInfo, bytes]:
    entries = [{"name": n, "bytes": 0, "sha256": "0" * 64} for n in names]
    told = {"pulmo": "0", "registry_schema": "1", "created_at": "", "entries": entries}
    return member(MANIFEST, json.dumps(told).encode())


DIGEST = "0" * 64


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil", b"x")],
        [member("/etc/evil", b"x")],
        [member(MANIFEST, type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        [member(MANIFEST, b"no json")],
        [member(MANIFEST, b"{}")],
        [member(MANIFEST, b"[" * 100_000)],
        [manifest(ROWS, "../evil"), member(ROWS), member("../evil")],
        [manifest(ROWS, "/evil"), member(ROWS), member("/evil")],
        [manifest(ROWS, f"bundles/{DIGEST}/../evil"), member(ROWS)],
        [manifest(ROWS, f"bundles/{DIGEST}/evil.pkl"), member(ROWS)],
        [manifest(ROWS, f"bundles/{DIGEST}/README.md\n"), member(ROWS)],
        [manifest(ROWS, f"bundles/{DIGEST}/READMEXmd"), member(ROWS)],
        [manifest(ROWS, ROWS), member(ROWS), member(ROWS)],
        [manifest(), member(ROWS)],
        [manifest(ROWS), member(ROWS, type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        [manifest(ROWS), member(ROWS, type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [manifest(ROWS), member(ROWS, type=tarfile.CHRTYPE)],
        [manifest(ROWS), member(ROWS), member("more", b"x")],
        [manifest(ROWS), member("x" * 200)],
    ],
    ids=range(19),
)
def test_hostile_archives_are_refused_and_nothing_is_written(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for about, data in members:
            archive.addfile(about, io.BytesIO(data))
    with pytest.raises(RegistryError):
        read(path, tmp_path / "out")
    assert {p.name for p in tmp_path.rglob("*")} == {"b.tar", "out"}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_archives_are_refused_unread(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "b.tar", mode) as archive:  # type: ignore[call-overload]
        archive.addfile(*(lambda about, data: (about, io.BytesIO(data)))(*manifest(ROWS)))
    with pytest.raises(RegistryError, match="is no backup"):
        open_archive(tmp_path / "b.tar")


def test_a_size_that_is_not_there_is_not_believed(tmp_path: Path) -> None:
    """A sparse file of a terabyte, and a manifest of 60 GB that a header claims."""
    path = tmp_path / "b.tar"
    about = tarfile.TarInfo(MANIFEST)
    about.size = 60 * 10**9
    path.write_bytes(about.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as stream:
        stream.truncate(10**12)
    with pytest.raises(RegistryError, match="is no backup"):
        open_archive(path)


def test_a_bundle_that_is_not_in_it_is_named(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=f"it lacks bundles/{DIGEST}"):
        open_archive(whole).bundle(DIGEST, tmp_path)


def test_a_file_that_is_not_there_is_told(
    tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    with pytest.raises(RegistryError, match="cannot be read or written"):
        open_archive(tmp_path / "b.tar")
