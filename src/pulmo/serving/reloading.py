"""For developers: a server that is begun anew whenever its code or its bundle changes."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from pulmo.logs import get_logger

PAUSE_SECONDS = 0.5

Stamp = frozenset[tuple[str, int, int]]

logger = get_logger(__name__)


def supervise(
    command: Sequence[str],
    folders: Iterable[Path],
    sleep: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Run `command` for ever, anew after every change of a file below `folders`.

    A command that ends by itself, as code with a fault does, is begun again with the next change.
    Ends with the exception of the signal that ends it, after the command has ended.
    """
    watched = tuple(folders)
    while True:
        stamp = stamp_of(watched)
        child = subprocess.Popen(command)
        try:
            while stamp_of(watched) == stamp:
                sleep(PAUSE_SECONDS)
        finally:
            child.terminate()
            child.wait()
        logger.info("a file changed: the server begins anew")


def stamp_of(folders: Iterable[Path]) -> Stamp:
    """What tells one state of the files below folders from another; caches do not count."""
    found = set()
    for folder in folders:
        for path in folder.rglob("*.*"):
            if "__pycache__" not in path.parts:
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    status = path.stat()
                    found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)
