"""Where a model comes from: commit, lock file, configuration, machine."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from pulmo.config.schema import Config
from pulmo.core.bundle import Lineage, file_digest
from pulmo.data.manifest import DataSet

_SOURCE = Path(__file__).resolve().parent


def lineage(config: Config, dataset: DataSet, notes: tuple[str, ...] = ()) -> Lineage:
    """The origin of a model trained now, by this code, on this data."""
    commit, clean = commit_of(_SOURCE)
    return Lineage(
        data_name=dataset.manifest.name,
        data_digest=dataset.manifest.digest,
        commit=commit,
        clean=clean,
        configuration=config.document(),
        seed=config.seed,
        lock_digest=_lock_digest(),
        machine=_machine(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
    )


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """The git commit that `folder` is checked out at and whether nothing differs from it.

    (None, None) outside a git checkout or without git.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, _git(folder, "status", "--porcelain") == ""
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def _lock_digest() -> str | None:
    lock = _SOURCE.parents[2] / "uv.lock"
    return file_digest(lock) if lock.is_file() else None


def _machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {gpu}"
    )
