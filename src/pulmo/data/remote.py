"""Data sets at an fsspec URL, found by their digest by machines that do not have them yet.

`<url>/<data digest>/` holds manifest.csv, dataset.json and `pictures/`, where every picture lies
under its SHA-256. dataset.json is pushed last: where it is, everything else is.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from pulmo import logs
from pulmo.config.settings import shown
from pulmo.core.bundle import sha256
from pulmo.data import files, manifest
from pulmo.data.manifest import INFO, TABLE, DataSet, Row, home_of, open_at
from pulmo.data.scan import each
from pulmo.errors import DataError, PulmoError

PICTURES = "pictures"
VARIABLE = "PULMO_DATA_URL"

log = logs.get_logger(__name__)


def find(data_dir: Path, url: str | None, digest: str) -> DataSet:
    """The data set with this manifest digest: on this machine, else fetched from `url`.

    A fetched one is checked picture by picture and appears whole or not at all; it does not
    become the current data set of its name. Raises DataError with what to do where it is nowhere.
    """
    try:
        return manifest.find(data_dir, digest)
    except DataError as error:
        if url is None:
            raise DataError(f"{error}, or set {VARIABLE} to where it was pushed") from error
    return _fetch(data_dir, url, digest)


def push(dataset: DataSet, url: str) -> str:
    """Upload a data set and return where it lies; pictures that are there already are left out.

    Raises DataError for a picture that is gone or has changed, or a place that cannot be written.
    """
    system, place = _open(url, dataset.manifest.digest)
    with _reached(url):
        system.makedirs(f"{place}/{PICTURES}", exist_ok=True)
        listed = system.ls(f"{place}/{PICTURES}", detail=True)
        known = {one["name"].rpartition("/")[2]: one["size"] for one in listed}

    def send(row: Row) -> None:
        encoded = files.read(dataset.path(row))
        if sha256(encoded) != row.sha256:
            raise DataError(
                f"{dataset.path(row)} has changed since its data set was made: make it anew"
            )
        if known.get(row.sha256) != len(encoded):
            with _reached(url):
                system.pipe_file(f"{place}/{PICTURES}/{row.sha256}", encoded)

    info = json.loads((dataset.folder / INFO).read_bytes())
    info["root"] = _root(dataset.manifest.digest)  # this machine's folders are nobody's business
    unique = {row.sha256: row for row in dataset.manifest.rows}
    for _ in each(send, list(unique.values()), "pushing"):
        pass
    with _reached(url):
        system.pipe_file(f"{place}/{TABLE}", dataset.manifest.table())
        system.pipe_file(f"{place}/{INFO}", _encoded(info))
    return f"{url.rstrip('/')}/{dataset.manifest.digest}"


def _fetch(data_dir: Path, url: str, digest: str) -> DataSet:
    system, place = _open(url, digest)
    with _reached(url):
        if not system.exists(f"{place}/{INFO}"):
            raise DataError(
                f"no data set in {data_dir} or at {shown(url)} has the digest {digest[:16]}…: "
                f"push it from a machine that has it (`pulmo data-push` with {VARIABLE} set)"
            )
        table, info = (system.cat_file(f"{place}/{name}") for name in (TABLE, INFO))
    document = _document(info, url)
    home = home_of(data_dir, str(document.get("name")))
    folder = home / digest[:16]
    part = home / f".{folder.name}.fetched"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{folder.name}.lock"):
        if folder.is_dir():  # somebody else fetched it while this process waited
            return open_at(folder, digest)
        log.info("fetching the data set %s %s from %s", home.name, digest[:12], shown(url))
        files.write(part / TABLE, table)
        files.write(part / INFO, _encoded({**document, "root": _root(digest)}))
        try:
            rows = open_at(part, digest).manifest.rows  # no picture before the digest is right
        except DataError:
            shutil.rmtree(part)
            raise
        _fetch_pictures(system, place, url, rows, part / PICTURES)
        files.publish(part, folder)
    return open_at(folder, digest)


def _fetch_pictures(system: Any, place: str, url: str, rows: tuple[Row, ...], target: Path) -> None:
    def bring(row: Row) -> None:
        path = target / _inside(row.path)
        if path.is_file() and sha256(files.read(path)) == row.sha256:
            return  # an earlier attempt came so far
        with _reached(url):
            encoded = system.cat_file(f"{place}/{PICTURES}/{row.sha256}")
        if sha256(encoded) != row.sha256:
            raise DataError(
                f"{shown(url)} gave another picture than {row.path}: push the data set anew"
            )
        files.write(path, encoded)

    for _ in each(bring, rows, "fetching"):
        pass


def _inside(path: str) -> PurePosixPath:
    inner = PurePosixPath(path)
    if inner.is_absolute() or ".." in inner.parts:
        raise DataError(f"the manifest names {path}, which lies outside its data set")
    return inner


def _root(digest: str) -> str:
    return f"{digest[:16]}/{PICTURES}"


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _document(info: bytes, url: str) -> dict[str, Any]:
    try:
        document = json.loads(info)
    except ValueError as error:
        raise DataError(f"{INFO} at {shown(url)} is damaged: push the data set anew") from error
    if not isinstance(document, dict):
        raise DataError(f"{INFO} at {shown(url)} describes no data set: push it anew")
    return document


def _open(url: str, digest: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    with _reached(url):
        system, root = url_to_fs(url)
    return system, f"{str(root).rstrip('/')}/{digest}"


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except PulmoError:
        raise
    except Exception as error:  # each file system raises what its client library likes
        raise DataError(
            shown(f"{url} ({VARIABLE}) cannot be reached or used: {type(error).__name__}: {error}")
        ) from error
