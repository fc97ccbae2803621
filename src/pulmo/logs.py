"""Logging on stderr, set up once by the entry point and never on import."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ACCESS = "pulmo.access"  # one line a request, where lines are for programs or `verbose` is on


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
    logging.getLogger(ACCESS).setLevel(logging.NOTSET if verbose else logging.WARNING)
    # What a decoder thinks of a picture that it reads all the same helps nobody.
    warnings.filterwarnings("ignore", module=r"PIL\.")


class Json(logging.Formatter):
    """One line of JSON a message; what is passed as `extra={"fields": {...}}` stands beside it."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def as_json() -> None:
    """Write messages, a line for every request and what the web server says as lines of JSON."""
    root = logging.getLogger("pulmo")
    for handler in root.handlers:
        handler.setFormatter(Json())
    logging.getLogger(ACCESS).setLevel(logging.INFO)
    logging.getLogger("uvicorn").handlers = root.handlers[:]


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
