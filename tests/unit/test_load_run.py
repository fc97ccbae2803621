"""The server that a load test starts for itself."""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from talking import wait_for

ROOT = Path(__file__).parents[2]
SERVER = """
import os, pathlib, sys, time
told = "listening on http://here" if os.environ["PULMO_LOG_FORMAT"] == "text" else "{}"
print(told, file=sys.stderr, flush=True)
for _ in range(1000):
    print("x" * 1000, file=sys.stderr, flush=True)
pathlib.Path("done").touch()
time.sleep(60)
"""

Server = Callable[[str | None, str | None], AbstractContextManager[str]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """What starts a server, in whose place a program stands that logs a megabyte."""
    spec = importlib.util.spec_from_file_location("load_run", ROOT / "load_tests/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "main.py").write_text(SERVER, encoding="utf-8")
    monkeypatch.setattr(module, "HERE", tmp_path / "load_tests")
    monkeypatch.chdir(tmp_path)
    started: Server = module._server
    return started


def test_a_server_is_heard_whatever_its_log_is_and_logs_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_LOG_FORMAT", "json")
    with server(None, None) as url:
        assert url == "http://here"
        wait_for((tmp_path / "done").exists)
