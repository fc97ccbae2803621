"""A file from the network: whole, with the right digest, or not there; never begun twice."""

import email.utils
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from pulmo import __version__, logs
from pulmo.config.schema import DataConfig
from pulmo.core.bundle import file_digest, sha256
from pulmo.data import files
from pulmo.errors import ConfigError, DataError
from pulmo.progress import measure

TIMEOUT_S = 30.0  # without a byte
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
LONGEST_PAUSE_S = 120.0  # whatever a server asks for
ATTEMPTS = 4  # in a row without a new byte, for each address
MAX_FILE_BYTES = 4 * 2**30

_PIECE = 2**16
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone in a moment

log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Remote:
    """A file by its addresses (the first is tried first) and its digests, where they are known."""

    urls: tuple[str, ...]
    md5: str | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        """A short name: of the bytes where their digest is known, else of the first address."""
        return (self.sha256 or self.md5 or sha256(self.urls[0].encode()))[:12]


class _PassingError(Exception):
    """The network failed in a way that may be gone in a moment."""

    def __init__(self, reason: object, pause: float = 0.0) -> None:
        super().__init__(str(reason))
        self.pause = pause


def wanted(config: DataConfig) -> Remote:
    """The file that a data set is made from. Raises ConfigError for anything but http and https."""
    if config.url is None:
        raise ConfigError(f"data={config.name} needs data.url")
    for url in (config.url, *config.mirrors):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"data.url={url} is no http or https address")
    return Remote((config.url, *config.mirrors), config.md5, config.sha256)


def fetch(remote: Remote, target: Path) -> Path:
    """Download to `target` unless it is there whole; return `target`.

    What an earlier attempt, also a killed one, has brought is kept and continued. Where no digest
    is known, that of the first download is written beside the file and held against later ones.
    Raises DataError where the file cannot be had or is another one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file() and _fits(target, remote, target):
            return target
        part = target.with_name(f".{target.name}.part")
        faults = []
        for url in remote.urls:
            try:
                _bring(url, remote, part, target)
                return target
            except DataError as error:
                faults.append(str(error))
        again = "try again later, set data.url to a mirror or data.root to a folder"
        raise DataError(f"{'; '.join(faults)}: {again}")


def _bring(url: str, remote: Remote, part: Path, target: Path) -> None:
    resumed = part.is_file()
    _download(url, part, blind=bool(remote.md5 or remote.sha256))
    if not _fits(part, remote, target) and resumed:
        log.info("%s: the parts do not fit together; starting anew", url)
        _drop(part)
        _download(url, part, blind=False)
    if not _fits(part, remote, target):
        found = _md5(part)
        _drop(part)
        raise DataError(f"{url} gave another file than it should: its MD5 is {found}")
    if not (remote.md5 or remote.sha256) and not _record(target).is_file():
        log.warning("%s has no known digest; what came is recorded in %s", url, _record(target))
        files.write(_record(target), f"{file_digest(part)}\n".encode())
    files.publish(part, target)
    _drop(part)


def _fits(path: Path, remote: Remote, target: Path) -> bool:
    if remote.md5 and _md5(path) != remote.md5:
        return False
    expected = remote.sha256
    if not remote.md5 and not expected and _record(target).is_file():
        expected = _record(target).read_text().strip()
    return expected is None or file_digest(path) == expected


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _download(url: str, part: Path, blind: bool) -> None:
    """All bytes of `url` to `part`; `blind`: parts may be joined unasked, a digest will tell."""
    fruitless, best = 0, _size(part)
    while True:
        try:
            return _attempt(url, part, blind)
        except _PassingError as error:
            reached = _size(part)
            fruitless = 0 if reached > best else fruitless + 1
            best = max(best, reached)
            if fruitless >= ATTEMPTS:
                raise DataError(f"{url} cannot be downloaded ({error})") from error
            pause = error.pause or PAUSE_S * 2 ** max(fruitless - 1, 0)
            log.info("%s: %s; trying again", url, error)
            time.sleep(min(pause, LONGEST_PAUSE_S))


def _attempt(url: str, part: Path, blind: bool) -> None:
    try:
        headers = {"User-Agent": f"pulmo/{__version__}", **_range(url, part, blind)}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            _receive(url, answer, part, blind)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing beyond what is there: it is whole, or another file
                if error.headers.get("Content-Range") == f"bytes */{_size(part)}":
                    return
                _drop(part)
                raise _PassingError(error) from error
            if error.code in _PASSING:
                raise _PassingError(error, _retry_after(error.headers)) from error
        raise DataError(f"{url} cannot be downloaded ({error})") from error
    except ValueError as error:
        raise DataError(f"{url} is no address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(error) from error


def _range(url: str, part: Path, blind: bool) -> dict[str, str]:
    """What asks for the rest of a file, if it is still the same (RFC 9110, 13.1.5 and 14.2)."""
    size, notes = _size(part), _read_notes(part)
    if not size:
        return {}
    if notes.get("url") == url and notes.get("validator"):
        return {"Range": f"bytes={size}-", "If-Range": notes["validator"]}
    return {"Range": f"bytes={size}-"} if blind else {}


def _receive(url: str, answer: Any, part: Path, blind: bool) -> None:
    start = _size(part) if answer.status == 206 else 0
    if start and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        _drop(part)
        raise _PassingError("the server continued at another place than asked")
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    if total is None and not answer.chunked and not blind:
        raise DataError(f"{url} tells no length and no digest is known: set data.sha256")
    if total is not None and total > MAX_FILE_BYTES:
        raise DataError(f"{url} has {total:,} bytes, more than {MAX_FILE_BYTES:,}: not downloaded")
    notes = {"url": url, "validator": _validator(answer.headers)}
    try:
        files.write(_notes(part), json.dumps(notes).encode())
        with part.open("ab" if start else "wb") as stream:
            for piece in measure(_pieces(answer), "downloading", start, total):
                if stream.tell() + len(piece) > MAX_FILE_BYTES:
                    raise DataError(f"{url} has more than {MAX_FILE_BYTES:,} bytes: not downloaded")
                stream.write(piece)
    except OSError as error:
        raise DataError(f"{part} cannot be written: {error.strerror or error}") from error
    if total is not None and _size(part) < total:
        raise _PassingError(f"broke off after {_size(part):,} of {total:,} bytes")


def _pieces(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            piece = answer.read1(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(error) from error
        if not piece:
            return
        yield piece


def _validator(headers: Any) -> str:
    tag = headers.get("ETag", "")
    weak = not tag or tag.startswith("W/")
    return str(headers.get("Last-Modified", "") if weak else tag)


def _retry_after(headers: Any) -> float:
    """Seconds that a server asks for, as a number or a date (RFC 9110, 10.2.3); 0 for none."""
    said = (headers.get("Retry-After") or "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max((email.utils.parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds(), 0)
    except (ValueError, TypeError):
        return 0.0


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_notes(part: Path) -> dict[str, str]:
    try:
        notes = json.loads(_notes(part).read_bytes())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
