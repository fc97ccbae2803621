"""The load test against a real server for some seconds."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.core.bundle import Bundle

ROOT = Path(__file__).parents[2]
MODEST = "[load]\nusers = 3\nseconds = 2\n[limits]\np95_ms = 60000\nerror_share = 0.0\n"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed: --group load"
)


def load_test(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "load_tests/run.py"), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def modest(tmp_path: Path) -> Path:
    path = tmp_path / "modest.toml"
    path.write_text(MODEST, encoding="utf-8")
    return path


def test_every_transport_is_asked_and_reported(
    toy_bundle: Bundle, modest: Path, tmp_path: Path
) -> None:
    report = tmp_path / "reports/load.html"
    done = load_test(tmp_path, "--model", toy_bundle.path, "--limits", modest, "--report", report)
    assert done.returncode == 0, done.stderr
    text = report.read_text(encoding="utf-8")
    for way in ("raw", "multipart", "base64"):
        assert f"/predict ({way})" in text


def test_a_broken_limit_ends_with_three(
    toy_bundle: Bundle, modest: Path, tmp_path: Path, grey_png: Callable[[int], bytes]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(grey_png(5))
    modest.write_text(MODEST.replace("60000", "0.001"), encoding="utf-8")
    given = ("--model", toy_bundle.path, "--limits", modest, "--pictures", tmp_path / "pictures")
    done = load_test(tmp_path, *given)
    assert done.returncode == 3, done.stderr
    assert "beyond the limits: p95_ms" in done.stderr
    assert (tmp_path / "runs/load-test.html").is_file()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = load_test(tmp_path, "--model", "./nowhere")
    assert done.returncode == 1
    assert "is no folder" in done.stderr
