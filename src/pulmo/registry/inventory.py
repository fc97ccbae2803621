"""What lies in a store of files: bundles, what interrupted writes left, and what is not ours."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from pulmo.config.settings import shown
from pulmo.core.bundle import FILES, SIGNATURE, SUMS
from pulmo.errors import PulmoError, RegistryError
from pulmo.registry.files import sync

GRACE = timedelta(hours=1)  # whoever still writes has touched a file within it

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = (".new-", ".damaged-", ".gone-")


Kind = Literal["bundle", "leftover", "writing", "foreign"]


@dataclass(frozen=True)
class Piece:
    """One entry of a store: its name (a bundle's is its digest), size and youngest change."""

    name: str
    kind: Kind
    bytes: int
    modified: datetime


class Inventory(Protocol):
    """The entries of a store of files, as they lie there."""

    place: str  # for people

    def pieces(self) -> list[Piece]:
        """Every entry, sorted by name; what is being written may have gone a moment later."""

    def remove(self, piece: Piece) -> None:
        """Take an entry away; interrupted, it leaves a leftover, never a torn bundle."""

    def opened(self, digest: str) -> AbstractContextManager[Path]:
        """A local folder with a bundle's bytes as they lie in the store, nothing checked."""


def open_inventory(url: str) -> Inventory:
    """The inventory of the store that `open_files` opens at this URL."""
    protocol, separator, path = url.partition("://")
    if not separator or protocol == "file":
        return FolderInventory(Path(path if separator else url))
    return RemoteInventory(url)


class FolderInventory:
    """Entries of a local folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.place = str(self._root)

    def pieces(self) -> list[Piece]:
        """Bundles come and go in one step; a hidden folder is one that was not finished."""
        with _explained(self.place):
            if not self._root.exists():
                return []
            found = [self._piece(path) for path in sorted(self._root.iterdir())]
            return [piece for piece in found if piece is not None]

    def remove(self, piece: Piece) -> None:
        """Rename a bundle out of sight first, so that nobody meets a torn one."""
        with _explained(self.place):
            path = self._root / piece.name
            if piece.kind == "bundle":
                path = path.rename(self._root / f".gone-{uuid.uuid4().hex}")
                sync(self._root)
            try:
                shutil.rmtree(path)
            except FileNotFoundError:  # whoever left it removes it too
                shutil.rmtree(path, ignore_errors=True)
            sync(self._root)

    @contextmanager
    def opened(self, digest: str) -> Iterator[Path]:
        """The bundle's own folder."""
        with _explained(self.place):
            yield self._root / digest

    def _piece(self, path: Path) -> Piece | None:
        known = path.is_dir() and not path.is_symlink()
        inner = os.walk(path) if known else ()  # passes over what its writer removes meanwhile
        within = [Path(folder, name) for folder, _, names in inner for name in names]
        found = [_status(one) for one in (path, *within)]
        if found[0] is None:
            return None
        youngest = max((one.st_mtime for one in found if one), default=0.0)
        modified = datetime.fromtimestamp(youngest, UTC)
        kind: Kind = "foreign"
        if known and _DIGEST.fullmatch(path.name):
            kind = "bundle"
        elif known and path.name.startswith(_OURS):
            young = path.name.startswith(".new-") and _is_young(modified)
            kind = "writing" if young else "leftover"
        size = sum(one.st_size for one in found[1 if known else 0 :] if one)
        return Piece(path.name, kind, size, modified)


class RemoteInventory:
    """Entries below an fsspec URL; a bundle is there where its sums are."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._url = url.rstrip("/")
        self.place = shown(self._url)
        with _reached(self.place):
            system, root = url_to_fs(self._url)
        self._system: Any = system
        self._root = str(root).rstrip("/")

    def pieces(self) -> list[Piece]:
        """One entry for each name directly below the URL."""
        with _reached(self.place):
            self._system.invalidate_cache()
            found: dict[str, dict[str, int]] = {}
            for path, about in self._system.find(self._root, detail=True).items():
                name, _, rest = path.removeprefix(self._root).strip("/").partition("/")
                found.setdefault(name, {})[rest] = int(about["size"] or 0)
            return [self._piece(name, files) for name, files in sorted(found.items())]

    def remove(self, piece: Piece) -> None:
        """Take the sums away first: without them the rest is a leftover."""
        remote = f"{self._root}/{piece.name}"
        with _reached(self.place):
            if self._system.exists(f"{remote}/{SUMS}"):
                self._system.rm_file(f"{remote}/{SUMS}")
            self._system.rm(remote, recursive=True)

    @contextmanager
    def opened(self, digest: str) -> Iterator[Path]:
        """A fresh copy in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
            with _reached(self.place):
                for name in (*FILES, SUMS, SIGNATURE):
                    if self._system.exists(f"{self._root}/{digest}/{name}"):
                        local = str(Path(folder) / name)
                        self._system.get_file(f"{self._root}/{digest}/{name}", local)
            yield Path(folder)

    def _piece(self, name: str, files: dict[str, int]) -> Piece:
        modified = max(
            self._system.modified("/".join(filter(None, (self._root, name, rest))))
            for rest in files
        )
        modified = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
        kind: Kind = "foreign"
        if _DIGEST.fullmatch(name):
            kind = "bundle" if SUMS in files else "writing" if _is_young(modified) else "leftover"
        return Piece(name, kind, sum(files.values()), modified)


def _is_young(moment: datetime) -> bool:
    return moment > datetime.now(UTC) - GRACE


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # its writer was faster
        return None


@contextmanager
def _explained(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"the bundles at {place} cannot be read or removed: {error.strerror or error}; check "
            "your rights there and repeat the command"
        ) from error


@contextmanager
def _reached(place: str) -> Iterator[None]:
    try:
        yield
    except PulmoError:
        raise
    except Exception as error:  # each file system raises what its client library likes
        told = shown(f"the bundles at {place} cannot be reached or used: {error}")
        raise RegistryError(told) from error
