"""A throwaway clone of the project, and its tasks run there."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# gcsfs asks a bucket's kind through gRPC, which the emulator does not speak.
PLAIN = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
FOREIGN = ("VIRTUAL_ENV", "PULMO_", "COVERAGE_", "STORAGE_", "GOOGLE_", "WANDB_", "MLFLOW_")
FOREIGN += ("PYTHONPATH", "UV_NO_SYNC", "UV_PROJECT_ENVIRONMENT", "GDRIVE_", "GIT_")


def make(folder: Path) -> Path:
    """The committed state of this project, cloned."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    git(folder, "config", "user.name", "a")
    git(folder, "config", "user.email", "a@b.invalid")
    return folder


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(folder: Path, *command: str, expect: int = 0, own: bool = False, **environment: str) -> str:
    """What `uv run COMMAND` says in a clone: its code, in this checkout's environment or its own.

    An environment of its own costs some minutes and gigabytes; where the installed packages are
    the ones of the lock file, nothing else is different.
    """
    groups = ("--group", "data", "--group", "gcs")
    borrowed = {
        "UV_NO_SYNC": "1",
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "PYTHONPATH": str(folder / "src"),  # before this checkout's own, which is installed
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    done = subprocess.run(
        ["uv", "run", "--locked", *groups, "-q", *command],
        cwd=folder,
        env={**clean, **PLAIN, **({} if own else borrowed), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == expect, said
    return said


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
