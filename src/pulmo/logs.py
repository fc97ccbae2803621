"""Logging on stderr, set up once by the entry point and never on import."""

import logging
import sys
import warnings
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def get_logger(name: str) -> logging.Logger:
    """The logger of one module; `name` is its `__name__`."""
    return logging.getLogger(name)


def setup(verbose: bool = False) -> None:
    """Send Pulmo's messages to stderr, bare at INFO and with their origin when `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT if verbose else "%(message)s"))
    root = logging.getLogger("pulmo")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
    # What a decoder thinks of a picture that it reads all the same helps nobody.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def add_file(path: Path) -> logging.Handler:
    """Also write Pulmo's messages to `path`; the caller removes the handler when the job ends."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger("pulmo").addHandler(handler)
    return handler


def remove(handler: logging.Handler) -> None:
    """Undo `add_file`."""
    logging.getLogger("pulmo").removeHandler(handler)
    handler.close()
