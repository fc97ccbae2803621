"""A file from the network: whole, with the right digest, or not there."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from pulmo import logs
from pulmo.data import files
from pulmo.errors import ConfigError, DataError
from pulmo.progress import track

TIMEOUT_S = 30.0
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
ATTEMPTS = 4
MAX_FILE_BYTES = 4 * 2**30

_PIECE = 2**18
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone in a moment

log = logs.get_logger(__name__)


def fetch(url: str, md5: str, target: Path) -> Path:
    """Download `url` to `target` unless it is there with this MD5; return `target`.

    Raises ConfigError for anything but http and https, DataError where the file cannot be had or
    is another one.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"data.url={url} is no http or https address")
    if target.is_file() and _md5(target) == md5:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = files.part_of(target)
    try:
        _download(url, part)
        if _md5(part) != md5:
            raise DataError(f"{url} gave another file than data.md5={md5} names: check both")
        files.publish(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _download(url: str, part: Path) -> None:
    for attempt in range(ATTEMPTS):
        try:
            return _stream(url, part)
        except (OSError, ValueError, http.client.HTTPException) as error:
            passing = not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING
            if not passing or attempt == ATTEMPTS - 1:
                raise DataError(
                    f"{url} cannot be downloaded ({error}): try again later, or set data.url to a "
                    "mirror"
                ) from error
            log.info("%s: %s; trying again", url, error)
            time.sleep(PAUSE_S * 2**attempt)


def _stream(url: str, part: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as stream:  # noqa: S310
        size = int(answer.headers.get("Content-Length") or 0)
        pieces = iter(lambda: answer.read(_PIECE), b"")
        done = 0
        for piece in track(pieces, "downloading", -(-size // _PIECE) or None):
            done += stream.write(piece)
            if done > MAX_FILE_BYTES:
                raise DataError(f"{url} has more than {MAX_FILE_BYTES:,} bytes: not downloaded")
        if done < size:
            raise OSError(f"broke off after {done:,} of {size:,} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
