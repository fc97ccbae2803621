"""Files read whole or refused, and files written whole or not at all."""

import os
import secrets
import stat
from pathlib import Path

from pulmo.core.preprocess import MAX_BYTES
from pulmo.errors import DataError


def read(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a plain file of at most `limit` bytes; DataError for anything else."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no plain file")
        if status.st_size > limit:
            raise DataError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def write(path: Path, data: bytes) -> None:
    """Replace `path` in one step; whatever interrupts this leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        part.write_bytes(data)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A hidden name beside `path`, for what is not finished; nobody else has it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def publish(part: Path, path: Path) -> None:
    """Give a finished file or folder its name, once its bytes are on the disk."""
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
