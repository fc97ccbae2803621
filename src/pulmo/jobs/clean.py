"""What can be made again goes: unfinished files, caches and raw pictures of no current data set."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pulmo import logs
from pulmo.data.manifest import INFO, load
from pulmo.errors import DataError

ABANDONED_S = 3600.0

log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Gone:
    """A file or folder that was (or would be) removed, its size and why it is not needed."""

    path: Path
    bytes: int
    reason: str


def clean(data_dir: Path, *, dry_run: bool = False) -> list[Gone]:
    """Remove what is not needed below `data_dir`, or only say what; manifests always stay.

    A data set that another process works on is passed over.
    """
    gone: list[Gone] = []
    homes = sorted({path.parent for name in (INFO, "raw") for path in _inside(data_dir, name)})
    for home in homes:
        try:
            with FileLock(home / ".lock", timeout=0):
                found = [Gone(path, _size(path), why) for path, why in _unneeded(home)]
                for one in found if not dry_run else ():
                    _remove(one.path)
        except Timeout:
            log.warning("%s is in use and is left as it is", home)
            continue
        gone += found
    return gone


def _inside(data_dir: Path, name: str) -> Iterator[Path]:
    return data_dir.resolve().glob(f"*/{name}")


def _unneeded(home: Path) -> Iterator[tuple[Path, str]]:
    parts = sorted({*home.rglob(".*.part"), *home.rglob(".*.part.json")})
    tops = [path for path in parts if not any(parent in parts for parent in path.parents)]
    old = time.time() - ABANDONED_S  # who still writes to a file, keeps it young
    yield from ((path, "unfinished") for path in tops if path.stat().st_mtime < old)
    try:
        current = load(home.parent, home.name)
    except DataError:  # nothing says what is in use: nothing else is touched
        return
    for pixels in sorted(home.glob("*/pixels-*.*")):
        if pixels.parent != current.folder and (pixels.parent / INFO).is_file():
            yield pixels, "cache of an earlier data set"
    for raw in sorted(home.glob("raw/*")):
        if raw.is_dir() and not raw.name.startswith(".") and not current.root.is_relative_to(raw):
            yield raw, "pictures of an earlier data set"
        elif raw.suffix in (".archive", ".npz") and raw.with_suffix("").is_dir():
            yield raw, "unpacked already"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
