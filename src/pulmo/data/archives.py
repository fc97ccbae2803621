"""Archives from the network, unpacked below the data folder: safely, once, wholly or not."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO

from pulmo.data import files
from pulmo.data.collection import visible
from pulmo.data.download import Remote, fetch
from pulmo.errors import DataError
from pulmo.progress import track

MAX_BYTES = 20 * 2**30  # of all that one archive unpacks to
MAX_FILES = 500_000

_PIECE = 2**18
_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)

_Member = tuple[str, AbstractContextManager[IO[bytes]]]


def brought(remote: Remote, folder: Path) -> Path:
    """The folder that a remote archive is unpacked to, below `folder`; made at the first call."""
    target = folder / remote.key
    if not target.is_dir():
        unpack(fetch(remote, folder / f"{remote.key}.archive"), target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a ZIP or TAR file (gzip, bzip2, xz) to `target`, which appears when all is there.

    Only plain files are taken. Raises DataError for anything else inside, for names that lead
    out of the archive, for one that unpacks to too much, and for a damaged one.
    """
    part = files.part_of(target)
    try:
        part.mkdir(parents=True)
        room = min(MAX_BYTES, shutil.disk_usage(part).free)
        for count, (name, member) in enumerate(track(_members(archive), "unpacking"), start=1):
            if count > MAX_FILES:
                raise DataError(f"{archive} holds more than {MAX_FILES:,} files")
            with member as source:
                room -= _copy(source, part / _safe(name, archive), room, archive)
        files.publish(part, target)
    except _FAULTS as error:
        raise DataError(f"{archive} is damaged ({error}): remove it and run again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def descend(folder: Path, parts: Collection[str]) -> Path:
    """Below wrapping folders: where something lies that is more than one folder, or a split."""
    while True:
        inside = visible(folder)
        alone = len(inside) == 1 and inside[0].is_dir()
        if not alone or inside[0].name.lower() in {part.lower() for part in parts}:
            return folder
        folder = inside[0]


def _members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise DataError(f"{archive} is neither a ZIP nor a TAR file: check data.url")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive} holds a link or device: {info.filename!a}")
            if not info.is_dir():
                yield info.filename, opened.open(info)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if not (info.isfile() or info.isdir()):
                raise DataError(f"{archive} holds a link or device: {info.name!a}")
            source = opened.extractfile(info)
            if source is not None:
                yield info.name, source


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & set("\\\0:"):
        raise DataError(f"{archive} holds a file that would lie outside: {name!a}")
    return path


def _copy(source: IO[bytes], path: Path, room: int, archive: Path) -> int:
    """Write one file and return its bytes, counted as they come: what a head claims is no bound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("xb") as stream:
        while piece := source.read(_PIECE):
            written += len(piece)
            if written > room:
                raise DataError(f"{archive} unpacks to more than there is room for")
            stream.write(piece)
    return written
