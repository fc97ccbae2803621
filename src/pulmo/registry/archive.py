"""A backup: one plain tar whose every byte follows from its manifest, written whole or not at all.

    manifest.json        what the archive holds: names, sizes, digests, in this order
    registry.jsonl       every row (`pulmo.store.dump`)
    bundles/DIGEST/FILE  every registered bundle, once, with its signature if it has one
    manifest.sha256      digest of the manifest

Any `tar` unpacks it. Reading compares each header with the only one that fits, so links, other
names, compression and claims of sizes that are not there have no place in it.
"""

import hashlib
import os
import re
import secrets
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pulmo.core.arrays import MAX_FILE_BYTES
from pulmo.core.bundle import FILES, SIGNATURE, SUMS, file_digest, sha256
from pulmo.errors import RegistryError
from pulmo.registry.files import sync

MANIFEST = "manifest.json"
ROWS = "registry.jsonl"
SEAL = "manifest.sha256"
MAX_MANIFEST_BYTES = 64 * 2**20

_BLOCK = 512
_PIECE = 2**20
_END = bytes(2 * _BLOCK)
_FILE = "|".join(map(re.escape, (*FILES, SUMS, SIGNATURE)))
_NAME = rf"{re.escape(ROWS)}|bundles/[0-9a-f]{{64}}/(?:{_FILE})"
_HEX = r"^[0-9a-f]{64}$"


class Entry(BaseModel):
    """One file of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^(?:{_NAME})$")
    bytes: int = Field(ge=0, le=MAX_FILE_BYTES)  # a plain tar header could say more
    sha256: str = Field(pattern=_HEX)


class Manifest(BaseModel):
    """What an archive holds; `registry_schema` is that of its rows, `pulmo` who wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    pulmo: str
    registry_schema: str
    created_at: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Archive:
    """An archive whose manifest and layout were checked; contents are checked as they are read."""

    path: Path
    manifest: Manifest
    starts: tuple[int, ...]  # where the bytes of each entry begin

    @property
    def bundles(self) -> list[str]:
        """The digests of its bundles."""
        return sorted({e.name.split("/")[1] for e in self.manifest.entries if e.name != ROWS})

    def rows(self, folder: Path) -> Path:
        """The rows as a file in `folder`, checked. Raises RegistryError."""
        return self._unpack(ROWS, folder)

    def bundle(self, digest: str, folder: Path) -> Path:
        """A bundle's files in `folder`, each checked against the manifest. Raises RegistryError."""
        signature = f"bundles/{digest}/{SIGNATURE}"
        signed = any(entry.name == signature for entry in self.manifest.entries)
        for name in (*FILES, SUMS, *((SIGNATURE,) if signed else ())):
            self._unpack(f"bundles/{digest}/{name}", folder)
        return folder

    def digest_of(self, name: str) -> str:
        """The digest of an entry."""
        return self._find(name)[0].sha256

    def _find(self, name: str) -> tuple[Entry, int]:
        for entry, start in zip(self.manifest.entries, self.starts, strict=True):
            if entry.name == name:
                return entry, start
        raise RegistryError(f"{self.path} is no whole backup: it lacks {name}")

    def _unpack(self, name: str, folder: Path) -> Path:
        entry, start = self._find(name)
        target = folder / Path(name).name
        with _explained(self.path), self.path.open("rb") as stream, target.open("wb") as sink:
            stream.seek(start)
            _copy(self.path, stream, sink, entry)
        return target


def entry_of(name: str, path: Path) -> Entry:
    """The entry of a file as it is now."""
    return Entry(name=name, bytes=path.stat().st_size, sha256=file_digest(path))


def write_archive(path: Path, manifest: Manifest, sources: Sequence[Path]) -> None:
    """Write the files of a manifest's entries; `path` is there only once everything is on disk.

    Raises RegistryError, also for a file that is not what its entry says.
    """
    path = path.absolute()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    told = manifest.model_dump_json(indent=1).encode() + b"\n"
    with _explained(path):
        try:
            with part.open("xb") as sink:
                sink.write(_member(MANIFEST, told))
                for entry, source in zip(manifest.entries, sources, strict=True):
                    sink.write(_header(entry.name, entry.bytes))
                    with source.open("rb") as stream:
                        _copy(source, stream, sink, entry)
                    sink.write(_padding(entry.bytes))
                sink.write(_member(SEAL, _seal(told)) + _END)
                sink.flush()
                os.fsync(sink.fileno())
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


def open_archive(path: Path) -> Archive:
    """Check everything about an archive but the contents of its entries. Raises RegistryError."""
    with _explained(path), path.open("rb") as stream:
        told = _read_manifest(path, stream)
        manifest = _parse(path, told)
        position, starts = len(_member(MANIFEST, told)), []
        for entry in manifest.entries:
            _require(path, stream, position, _header(entry.name, entry.bytes), entry.name)
            starts.append(position + _BLOCK)
            end, padding = starts[-1] + entry.bytes, _padding(entry.bytes)
            _require(path, stream, end, padding, entry.name)
            position = end + len(padding)
        _require(path, stream, position, _member(SEAL, _seal(told)) + _END, SEAL)
        if stream.read(1):
            raise RegistryError(f"{path} is no backup: something follows its end")
    return Archive(path, manifest, tuple(starts))


def _read_manifest(path: Path, stream: BinaryIO) -> bytes:
    block = stream.read(_BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(block, "ascii", "strict").size
    except (tarfile.HeaderError, UnicodeError) as error:
        raise RegistryError(f"{path} is no backup of a registry: {error}") from error
    if not 0 < size <= MAX_MANIFEST_BYTES or block != _header(MANIFEST, size):
        raise RegistryError(f"{path} is no backup of a registry: it does not begin like one")
    told = stream.read(size)
    _require(path, stream, _BLOCK + size, _padding(size), MANIFEST)
    return told


def _parse(path: Path, told: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or MANIFEST
        raise RegistryError(f"{path}: its manifest is wrong at {where}: {first['msg']}") from error
    names = [entry.name for entry in manifest.entries]
    if names[:1] != [ROWS] or len(set(names)) != len(names):
        raise RegistryError(f"{path}: its manifest must name {ROWS} first, and nothing twice")
    return manifest


def _require(path: Path, stream: BinaryIO, start: int, expected: bytes, name: str) -> None:
    stream.seek(start)
    if stream.read(len(expected)) != expected:
        raise RegistryError(f"{path} is damaged or cut off at {name}: take another backup")


def _copy(path: Path, stream: BinaryIO, sink: BinaryIO, entry: Entry) -> None:
    digest, left = hashlib.sha256(), entry.bytes
    while left and (piece := stream.read(min(left, _PIECE))):
        digest.update(piece)
        sink.write(piece)
        left -= len(piece)
    if left or digest.hexdigest() != entry.sha256:
        raise RegistryError(f"{path} is damaged: {entry.name} does not match its digest")


def _header(name: str, size: int) -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.mode = size, 0o644
    return about.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + _padding(len(data))


def _seal(told: bytes) -> bytes:
    return f"{sha256(told)}  {MANIFEST}\n".encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"{error.filename or path} cannot be read or written: {error.strerror or error}; check "
            "that it exists, your rights there and the free space"
        ) from error
