import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.verbs import frontend
from pulmo.wiring import open_registry

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def reached(url: str) -> bool:
    """Whether there is an answer before patience ends, which no machine that works knows."""
    for _ in range(2400):
        if answers(url):
            return True
        threading.Event().wait(0.05)
    return False


@contextmanager
def shown(folder: Path, *words: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "ui", "--port", str(port), *words]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_the_pages_are_served_though_no_api_answers(tmp_path: Path) -> None:
    with shown(tmp_path, "--api", "http://127.0.0.1:9") as (process, url):
        assert reached(f"{url}/_stcore/health")
        assert "<title>" in httpx.get(url).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert not answers(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_wrong_usage(cli: Cli, address: str) -> None:
    code, _, err = cli("ui", "--api", address)
    assert (code, "give http://host:port" in " ".join(err.split())) == (2, True)


def test_a_missing_package_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "NEEDED", ("streamlit_that_is_not_there", "httpx"))
    code, out, err = cli("ui")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "`uv sync --inexact --group frontend`" in err


def test_an_api_that_listens_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = listener.getsockname()
        monkeypatch.setattr(frontend, "OWN", own)
        with frontend._api(None) as address:
            assert address == f"http://127.0.0.1:{own[1]}"


def test_an_api_is_started_where_none_listens_and_ends_with_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_bundle: Bundle
) -> None:
    monkeypatch.chdir(tmp_path)
    open_registry(Settings()).register(toy_bundle.path, actor="me")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(frontend, "OWN", ("127.0.0.1", free_port()))
    with frontend._api(None) as address:
        assert reached(f"{address}/livez")
        told = httpx.get(f"{address}/readyz")
        assert told.status_code == 503
        assert "no model is there yet" in told.text
    assert not answers(f"{address}/livez")
