"""W&B on this machine: its package, a key, and whether it is online. Its own variables decide."""

import importlib
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pulmo.errors import ConfigError

PROJECT = "pulmo"  # where WANDB_PROJECT names none


def load_wandb() -> Any:
    """The package `wandb`. Raises ConfigError where it is not installed.

    Its reports of its own errors to others stay off unless somebody turned them on.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        found = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ConfigError(_missing(str(error.name))) from error
    if found.__file__ is None:  # a folder of that name, where runs are kept, is no package
        raise ConfigError(_missing("wandb"))
    return found


def require_key(wandb: Any) -> None:
    """Raise ConfigError where the SDK would find no key: then it would ask, or fail in many lines.

    It looks into the environment and into the file of passwords that curl and others use too.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    given = os.environ.get("NETRC")
    if any(_knows(Path(name).expanduser(), host) for name in [given or "~/.netrc", "~/_netrc"]):
        return
    raise ConfigError(
        "W&B needs a key: set WANDB_API_KEY (and WANDB_BASE_URL for a server of your own), or "
        "WANDB_MODE=offline to keep what it shall get for `wandb sync`"
    )


def is_offline() -> bool:
    """Whether runs are kept on this machine for `wandb sync`. Raises ConfigError."""
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in ("online", "offline"):
        raise ConfigError(f"WANDB_MODE is {mode}: here it can be online or offline")
    return mode == "offline"


def project() -> str:
    """The project that runs and artifacts go to."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def entity() -> str | None:
    """The user or team that they belong to; None leaves it to the key."""
    return os.environ.get("WANDB_ENTITY") or None


def _missing(package: str) -> str:
    return f"W&B needs the package {package}: `uv sync --group wandb` brings it"


def _knows(path: Path, host: str) -> bool:
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None and bool(found[2])
