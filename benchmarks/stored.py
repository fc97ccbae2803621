"""Results in a JSON file that several processes may change, one whole change after another."""

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.arms import ROOT

EXPERIMENTS = ROOT / "benchmarks/results/experiments.json"  # benchmarks.clusters
QUALITY = ROOT / "benchmarks/results/quality.json"  # benchmarks.quality


def read(path: Path) -> dict[str, Any]:
    """What is there; nothing where there is no file."""
    text = path.read_text("utf-8") if path.is_file() else ""
    known: dict[str, Any] = json.loads(text) if text else {}
    return known


@contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """What is there, written back as it was left; others wait. An error changes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        known: dict[str, Any] = json.loads(text) if text else {}
        yield known
        stream.truncate(0)
        stream.write(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def origin() -> dict[str, str]:
    """When, and with which code: a commit, with `-dirty` where more than that ran."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "commit": done.stdout.strip() or "unknown"}
