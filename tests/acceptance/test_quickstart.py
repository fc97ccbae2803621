"""The README's promise: a bare clone, no network but loopback, five minutes, the whole loop."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIVE_MINUTES = 300


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the committed state with its own environment."""
    folder = tmp_path_factory.mktemp("clone") / "pulmo"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run(["uv", "sync", "--locked", "-q"], cwd=folder, check=True, env=environment())
    return folder


def environment() -> dict[str, str]:
    """This process's environment without the traces of its own virtual environment."""
    foreign = ("VIRTUAL_ENV", "PULMO_", "COVERAGE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)}


def offline(folder: Path, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run with loopback as the only network."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare to take the network away")
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
    return subprocess.run(
        alone,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )


def pulmo(folder: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    done = offline(folder, "uv", "run", "--offline", "main.py", *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_loop_runs_in_five_minutes_and_leaves_what_it_says(clone: Path) -> None:
    pulmo(clone, "quickstart", timeout=FIVE_MINUTES)
    history = json.loads(
        pulmo(clone, "registry", "history", "phantom-demo", "--json", timeout=60).stdout
    )
    moves = [(m["action"], m["before"], m["after"]) for m in history if m["alias"] == "production"]
    assert moves == [("promote", None, 0), ("promote", 0, 2), ("rollback", 2, 0)]
    shown = json.loads(
        pulmo(clone, "registry", "show", "phantom-demo:v1", "--json", timeout=60).stdout
    )
    assert shown["verdicts"][-1]["passed"] is False
    report = clone / "runs/quickstart-phantom-demo/first/evaluation/report.html"
    assert "<html" in report.read_text(encoding="utf-8")


def test_a_second_run_uses_what_is_there(clone: Path) -> None:
    trained = sorted((clone / "runs").rglob("weights.safetensors"))
    before = [path.stat().st_mtime_ns for path in trained]
    pulmo(clone, "quickstart", timeout=60)
    assert [path.stat().st_mtime_ns for path in trained] == before
    history = json.loads(
        pulmo(clone, "registry", "history", "phantom-demo", "--json", timeout=60).stdout
    )
    assert sum(m["alias"] == "production" for m in history) == 3


def test_the_quick_suite_passes_within_ten_minutes(clone: Path) -> None:
    done = offline(clone, "uv", "run", "--offline", "invoke", "test", timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
