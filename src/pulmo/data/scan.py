"""Every picture of a source read once: its two digests, or why it cannot be read."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from pulmo.core.bundle import sha256
from pulmo.core.preprocess import decode, pixel_digest
from pulmo.data import files
from pulmo.data.manifest import Picture
from pulmo.data.sources import Collection, Found
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
    """What reading every file of a source gave."""

    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...]


class _Known(BaseModel):
    """Digests of files that have not changed since, so that nothing is decoded twice."""

    model_config = ConfigDict(extra="forbid")

    root: str
    channels: int
    pillow: str = PIL.__version__  # another decoder may give other pixels
    files: dict[str, tuple[int, int, str, str]] = {}  # size, mtime_ns, sha256, pixels


def scan(collection: Collection, channels: Literal[1, 3], memory: Path) -> Scan:
    """Read and decode every picture, but those that `memory` (a file, kept up to date) knows."""
    empty = _Known(root=str(collection.root), channels=channels)
    known = _recall(memory, empty)

    def look(found: Found) -> tuple[int, int, str, str] | Unreadable:
        path = collection.root / found.path
        try:
            state = path.stat()
            before = known.files.get(found.path)
            if before is not None and before[:2] == (state.st_size, state.st_mtime_ns):
                return before
            encoded = files.read(path)
            digests = sha256(encoded), pixel_digest(decode(encoded, channels))
            return state.st_size, state.st_mtime_ns, *digests
        except (DataError, OSError) as error:
            return Unreadable(found.path, str(error))

    pictures, unreadable = [], []
    for found, seen in zip(collection.files, each(look, collection.files, "reading"), strict=True):
        if isinstance(seen, Unreadable):
            unreadable.append(seen)
        else:
            empty.files[found.path] = seen
            pictures.append(Picture(found.path, found.label, found.role, *seen[2:]))
    if empty != known:
        files.write(memory, empty.model_dump_json().encode())
    return Scan(tuple(pictures), tuple(unreadable))


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
