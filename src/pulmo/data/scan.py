"""Every picture of a source read once: its two digests, or why it cannot be read."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from pulmo.config.schema import DataConfig
from pulmo.core.bundle import sha256
from pulmo.core.dicom_spec import DicomSpec
from pulmo.core.preprocess import decode, mode_of, pixel_digest
from pulmo.data import files, looks
from pulmo.data.collection import Collection, Found
from pulmo.data.dealing import Picture
from pulmo.data.looks import Look
from pulmo.errors import DataError
from pulmo.progress import track

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 8  # pictures in flight for every thread: enough to keep it busy, little memory


@dataclass(frozen=True)
class Unreadable:
    """A file that is no whole picture, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What reading every file of a source gave; `looks` is by path."""

    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...]
    looks: dict[str, Look]


class _Seen(NamedTuple):
    size: int
    mtime_ns: int
    sha256: str
    pixels: str
    look: Look


class _Known(BaseModel):
    """What is known of files that have not changed since, so that nothing is decoded twice."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[2] = 2
    root: str
    channels: int
    dicom: DicomSpec | None
    pillow: str = PIL.__version__  # another decoder may give other pixels
    files: dict[str, _Seen] = {}


def scan(collection: Collection, data: DataConfig, memory: Path) -> Scan:
    """Read and decode every picture, but those that `memory` (a file, kept up to date) knows."""
    empty = _Known(root=str(collection.root), channels=data.channels, dicom=data.dicom)
    known = _recall(memory, empty)

    def read(found: Found) -> _Seen | Unreadable:
        path = collection.root / found.path
        try:
            state = path.stat()
            before = known.files.get(found.path)
            if before is not None and before[:2] == (state.st_size, state.st_mtime_ns):
                return before
            encoded = files.read(path)
            image = decode(encoded, data.channels, data.dicom)
            if _cut_short(encoded):
                raise DataError("the file ends before its end is marked: it was cut short")
            seen = looks.look(image, mode_of(encoded))
            digests = sha256(encoded), pixel_digest(image)
            return _Seen(state.st_size, state.st_mtime_ns, *digests, seen)
        except (DataError, OSError) as error:
            return Unreadable(found.path, str(error))

    pictures, unreadable = [], []
    for found, seen in zip(collection.files, each(read, collection.files, "reading"), strict=True):
        if isinstance(seen, Unreadable):
            unreadable.append(seen)
        else:
            empty.files[found.path] = seen
            digests = seen.sha256, seen.pixels
            known_of = found.patient, found.slices
            pictures.append(Picture(found.path, found.label, found.role, *digests, *known_of))
    if empty != known:
        files.write(memory, empty.model_dump_json().encode())
    found_looks = {path: seen.look for path, seen in empty.files.items()}
    return Scan(tuple(pictures), tuple(unreadable), found_looks)


def _cut_short(encoded: bytes) -> bool:
    """Whether the mark of the end is missing after the last picture, though pixels may be whole."""
    if encoded.startswith(b"\xff\xd8"):  # JPEG: an end of image after the last start of scan
        return encoded.rfind(b"\xff\xd9") < encoded.rfind(b"\xff\xda")
    end = encoded.rfind(b"IEND")  # PNG: its last chunk, whose check sum has 4 bytes
    return encoded.startswith(b"\x89PNG") and not 0 <= end <= len(encoded) - 8


def each(function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
    """What `function` gives for every item, in order, by one thread a core, under a bar."""
    return track(_in_threads(function, items), label, len(items))


def _in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    workers = os.cpu_count() or 1
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= workers * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _recall(memory: Path, empty: _Known) -> _Known:
    try:
        known = _Known.model_validate_json(memory.read_bytes())
    except (FileNotFoundError, ValidationError):  # a memory that is lost costs time, no more
        return empty.model_copy(update={"files": {}})
    fits = known.model_copy(update={"files": {}}) == empty
    return known if fits else empty.model_copy(update={"files": {}})
