"""Where a model comes from: commit, lock file, configuration, machine."""

import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from pulmo.config.schema import Config
from pulmo.core.bundle import Lineage, file_digest
from pulmo.data.manifest import DataSet
from pulmo.jobs.ranks import team

ROOT = Path(__file__).resolve().parents[3]  # the top of a checkout; no checkout where installed
# How notes begin that say what a commit and a configuration cannot.
RECALIBRATED = "recalibrated from"
ROUNDED = "put into whole numbers from"
CHANGED = "changed after its training"
RESUMED = "resumed at another commit"
SHARED = "trained by"  # several processes, whose sums are in no fixed order


def lineage(config: Config, dataset: DataSet, notes: tuple[str, ...] = ()) -> Lineage:
    """The origin of a model trained now, by this code, on this data."""
    commit, clean = commit_of(ROOT)
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
        notes=(*notes, *_together()),
    )


def unreproducible(origin: Lineage) -> str | None:
    """Why a model of this origin cannot be made again from a commit, None where it can."""
    if origin.commit is None:
        return "it was trained outside a git checkout, so nobody knows from which code"
    if not origin.clean:
        return f"it was trained with uncommitted changes to commit {origin.commit[:12]}"
    told = (note for note in origin.notes if note.startswith((CHANGED, RESUMED, SHARED)))
    return next((f"it was {note}" for note in told), None)


def resumed(origin: Lineage) -> Lineage:
    """The origin of a training that goes on here and now: a note where the code is another."""
    commit, clean = commit_of(ROOT)
    notes = [*_together()]
    if (commit, clean) != (origin.commit, origin.clean):
        code = f"commit {commit}" if commit else "no checkout"
        changed = "" if clean or not commit else " with uncommitted changes"
        notes.append(f"{RESUMED}: {code}{changed}")
    new = [note for note in notes if note not in origin.notes]
    return origin.model_copy(update={"notes": (*origin.notes, *new)}) if new else origin


def derived(origin: Lineage) -> str | None:
    """The note that says from which model one was made, None where it was trained."""
    told = (note for note in origin.notes if note.startswith((RECALIBRATED, ROUNDED)))
    return next(told, None)


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """The git commit that `folder` is checked out at and whether nothing differs from it.

    An image has no git: its file COMMIT names the commit that all of it was exported from.
    (None, None) where `folder` is not the top of a git checkout (an installation may lie inside
    somebody else's), or without git.
    """
    exported = folder / "COMMIT"
    if exported.is_file() and not (folder / ".git").exists():
        named = re.fullmatch(r"[0-9a-f]{40}\n", exported.read_text("utf-8"))
        return (named[0].strip(), True) if named else (None, None)
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None, None
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, _git(folder, "status", "--porcelain") == ""
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def _together() -> tuple[str, ...]:
    """The note of a training that several processes share."""
    size = team().size
    return (f"{SHARED} {size} processes together",) if size > 1 else ()


def _lock_digest() -> str | None:
    lock = ROOT / "uv.lock"
    return file_digest(lock) if lock.is_file() else None


def _machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {gpu}"
    )
