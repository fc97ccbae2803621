"""Bundles kept by their digest: in a folder, or at any fsspec URL with a local copy."""

import importlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pulmo.config.settings import shown
from pulmo.core.arrays import MAX_FILE_BYTES
from pulmo.core.bundle import (
    FILES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    SUMS,
    Bundle,
    verify,
)
from pulmo.errors import ModelError, NotFoundError, PulmoError, RegistryError


class BundleFiles(Protocol):
    """A content-addressed store of bundles; any number of writers may store the same one."""

    def store(self, bundle: Bundle) -> None:
        """Keep a verified bundle; when this returns its bytes are safe. Raises RegistryError.

        Its signature is kept too, unless there is one already.
        """

    def sign(self, digest: str, signature: bytes) -> None:
        """Put a signature beside a stored bundle, in the place of a former one."""

    def fetch(self, digest: str) -> Path:
        """A local folder with the bundle of this digest, every file checked but the signature.

        Raises NotFoundError where it is missing, ModelError where it is damaged.
        """

    def renew_signature(self, digest: str) -> None:
        """Let the folder that `fetch` gives have the signature that was put last."""

    def holds(self, digest: str) -> bool:
        """Whether every file of a stored bundle is there now; their bytes are not read."""


def open_files(url: str, *, cache: Path | None = None) -> BundleFiles:
    """The store at `url`: a folder (`models/bundles`, `file:///srv/bundles`) or an fsspec URL.

    Nothing is made before the first bundle is stored. `cache` holds copies of remote bundles,
    `models/cache` if left out.
    Raises RegistryError for a protocol that is unknown or whose package is missing.
    """
    protocol, separator, path = url.partition("://")
    if not separator or protocol == "file":
        return FolderFiles(Path(path if separator else url))
    return RemoteFiles(url, cache or Path("models/cache"))


class FolderFiles:
    """Bundles in a local folder, one sub-folder each, named by its digest."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def store(self, bundle: Bundle) -> None:
        """Copy a bundle in, unless it is there and whole."""
        folder = self.add(bundle.digest, lambda folder: _copy(bundle.path, folder))
        if (signature := bundle.signature) and not (folder / SIGNATURE).exists():
            self.sign(bundle.digest, signature)

    def sign(self, digest: str, signature: bytes) -> None:
        """Rename a new file onto the signature: readers see the former one or this one."""
        unfinished = self._root / f".new-{uuid.uuid4().hex}"
        with _explained(str(self._root)):
            unfinished.mkdir()
            try:
                (unfinished / SIGNATURE).write_bytes(signature)
                sync(unfinished / SIGNATURE)
                (unfinished / SIGNATURE).replace(self._root / digest / SIGNATURE)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            sync(self._root / digest)

    def fetch(self, digest: str) -> Path:
        """The bundle's folder in this store."""
        folder = self._root / digest
        with _explained(str(self._root)):
            if not folder.is_dir():
                raise NotFoundError(
                    f"the files of bundle {digest} are not in {self._root}: check PULMO_FILES_URL"
                )
            return _require_digest(folder, digest)

    def renew_signature(self, digest: str) -> None:
        """Nothing is to be done: there is one folder."""

    def holds(self, digest: str) -> bool:
        """Whether the folder is there: it comes and goes in one step."""
        return (self._root / digest).is_dir()

    def add(self, digest: str, fill: Callable[[Path], None]) -> Path:
        """Let `fill` write a bundle into a temporary folder, verify it and give it its name."""
        target = self._root / digest
        with _explained(str(self._root)):
            if _is_whole(target, digest):
                sync(self._root)  # whoever renamed it here may not have come so far
                return target
            self._root.mkdir(parents=True, exist_ok=True)
            folder = self._root / f".new-{uuid.uuid4().hex}"
            folder.mkdir()
            try:
                fill(folder)
                _require_digest(folder, digest)
                sync(folder)
                self._take_over(folder, target, digest)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            sync(self._root)
            sync(self._root.parent)
        return target

    def _take_over(self, folder: Path, target: Path, digest: str) -> None:
        """Rename onto the target; a damaged one is put aside, a whole one was first and stays."""
        aside = self._root / f".damaged-{uuid.uuid4().hex}"
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            if _is_whole(target, digest):
                return
            target.rename(aside)
            folder.rename(target)
            shutil.rmtree(aside, ignore_errors=True)


class RemoteFiles:
    """Bundles at an fsspec URL, fetched into a local folder before they are used."""

    def __init__(self, url: str, cache: Path) -> None:
        self._url = url.rstrip("/")
        self._cache = FolderFiles(cache)
        self._system, self._root = _open_system(self._url)

    def store(self, bundle: Bundle) -> None:
        """Upload a bundle, its sums last: where they are, everything else is.

        An object store shows an object whole or not at all.
        """
        with _reached(self._url):
            remote = f"{self._root}/{bundle.digest}"
            if not self._is_whole(bundle.digest):
                self._system.makedirs(remote, exist_ok=True)
                for name in (*FILES, SUMS):
                    self._system.put_file(str(bundle.path / name), f"{remote}/{name}")
            signature = bundle.signature
            if signature and not self._system.exists(f"{remote}/{SIGNATURE}"):
                self.sign(bundle.digest, signature)

    def sign(self, digest: str, signature: bytes) -> None:
        """Upload a signature."""
        with _reached(self._url):
            self._system.pipe_file(f"{self._root}/{digest}/{SIGNATURE}", signature)

    def fetch(self, digest: str) -> Path:
        """A verified copy in the cache folder, downloaded where it is missing or damaged."""
        return self._cache.add(digest, lambda folder: self._download(digest, folder))

    def renew_signature(self, digest: str) -> None:
        """The store's signature goes to the copy; unreachable, the one that came last stays."""
        known = self.fetch(digest) / SIGNATURE
        try:
            newest = self._signature(digest)
        except RegistryError:
            return
        if newest is not None and (not known.exists() or known.read_bytes() != newest):
            self._cache.sign(digest, newest)

    def holds(self, digest: str) -> bool:
        """Whether every file is there, the sums included."""
        with _reached(self._url):
            remote = f"{self._root}/{digest}"
            return all(self._system.exists(f"{remote}/{name}") for name in (SUMS, *FILES))

    def _download(self, digest: str, folder: Path) -> None:
        remote = f"{self._root}/{digest}"
        with _reached(self._url):
            if not self._system.exists(f"{remote}/{SUMS}"):
                raise NotFoundError(
                    f"the files of bundle {digest} are not at {shown(self._url)}: check "
                    "PULMO_FILES_URL"
                )
            for name in (*FILES, SUMS):
                if self._system.size(f"{remote}/{name}") > MAX_FILE_BYTES:
                    raise ModelError(f"{name} of bundle {digest} is larger than any file may be")
                self._system.get_file(f"{remote}/{name}", str(folder / name))
                sync(folder / name)
            if (signature := self._signature(digest)) is not None:
                (folder / SIGNATURE).write_bytes(signature)

    def _signature(self, digest: str) -> bytes | None:
        path = f"{self._root}/{digest}/{SIGNATURE}"
        with _reached(self._url):
            if not self._system.exists(path) or self._system.size(path) > MAX_SIGNATURE_BYTES:
                return None
            return bytes(self._system.cat_file(path))

    def _is_whole(self, digest: str) -> bool:
        """Whether every byte is there: what was damaged is mended by storing it again."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._download(digest, Path(folder))
            except RegistryError:
                return False
            return _is_whole(Path(folder), digest)


def _open_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    with _reached(url):
        if url.startswith(("gs://", "gcs://")):
            # What fsspec would take first tries interfaces that not every bucket has.
            google = importlib.import_module("gcsfs.core").GCSFileSystem
            return google(use_listings_cache=False), str(google._strip_protocol(url)).rstrip("/")
        # Other machines write there too: no listing is believed twice.
        system, root = url_to_fs(url, use_listings_cache=False)
    return system, str(root).rstrip("/")


def _copy(source: Path, folder: Path) -> None:
    signed = (SIGNATURE,) if (source / SIGNATURE).exists() else ()
    for name in (*FILES, *signed, SUMS):
        shutil.copyfile(source / name, folder / name)
        sync(folder / name)


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders and journals their entries itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_digest(folder: Path, digest: str) -> Path:
    found = verify(folder).digest
    if found != digest:
        raise ModelError(f"{folder} holds bundle {found}, not {digest}: fetch or store it again")
    return folder


def _is_whole(folder: Path, digest: str) -> bool:
    if not folder.is_dir():
        return False
    try:
        _require_digest(folder, digest)
    except (ModelError, FileNotFoundError):  # the latter where it is just taken away
        return False
    return True


@contextmanager
def _explained(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"the bundles at {place} cannot be read or written: {error.strerror or error}; check "
            "that the place exists, your rights there and its free space"
        ) from error


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except PulmoError:
        raise
    except ModuleNotFoundError as error:
        told = f"{shown(url)} needs the package {error.name}: `uv sync --group gcs` brings gcsfs"
        raise RegistryError(told) from error
    except Exception as error:  # each file system raises what its client library likes
        told = shown(f"the bundles at {url} cannot be reached or used: {error}")
        raise RegistryError(told) from error
