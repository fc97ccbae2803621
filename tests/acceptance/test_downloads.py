"""Downloads from a server that does all that servers do: the right bytes, or a clear error."""

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]
MD5 = "28209eda62fecd6e6a2d98b1501bb15f"
PIECE = 64 * 1024


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        plan = self.server.plan
        answer = plan.pop(0) if plan else "whole"
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.server.asked.append(int(asked[1]) if asked else 0)
        self.close_connection = True
        if answer in ("500", "429"):
            self.send_response(int(answer))
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"\0" * len(self.server.body) if answer == "wrong" else self.server.body
        start = self.server.asked[-1]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{answer == "wrong"}"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self._send(body[start:], answer)

    def _send(self, body: bytes, answer: str) -> None:
        for at in range(0, len(body), PIECE):
            if answer in ("break", "stall") and at >= 8 * PIECE:
                if answer == "stall":
                    self.server.over.wait()
                return
            if answer == "slow" and self.server.over.wait(0.05):
                return
            try:
                self.wfile.write(body[at : at + PIECE])
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, body: bytes, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.body = body
        self.plan: list[str] = []
        self.asked: list[int] = []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Stop answering, in the middle of whatever is being sent."""
        self.over.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def body(shared_data: Path) -> bytes:
    encoded = (shared_data / "pneumoniamnist" / "pneumoniamnist.npz").read_bytes()
    assert hashlib.md5(encoded, usedforsecurity=False).hexdigest() == MD5
    return encoded


@pytest.fixture
def server(body: bytes) -> Iterator[Server]:
    running = Server(body)
    yield running
    running.kill()


def arguments(*servers: Server) -> list[str]:
    first, *rest = [f"http://127.0.0.1:{one.server_port}/x.npz" for one in servers]
    mirrors = [f"data.mirrors=[{','.join(rest)}]"] if rest else []
    return ["data", "data=pneumoniamnist", f"data.url={first}", *mirrors]


def start(folder: Path, *servers: Server) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments(*servers)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def raw(folder: Path) -> Path:
    return folder / "data" / "pneumoniamnist" / "raw"


def whole(folder: Path) -> bool:
    archive = raw(folder) / f"{MD5[:12]}.npz"
    right = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() == MD5
    pictures = list((raw(folder) / MD5[:12]).rglob("*.png"))
    return right and len(pictures) == 5856 and (raw(folder).parent / "dataset.json").is_file()


def nothing_half_made(folder: Path) -> bool:
    """No name that a later run would take for whole."""
    there = raw(folder).iterdir() if raw(folder).is_dir() else ()
    return all(path.name.startswith(".") for path in there)


def test_whatever_the_server_does_the_right_bytes_come(
    pulmo: Command, server: Server, tmp_path: Path
) -> None:
    server.plan = ["500", "429", "break", "500", "stall", "break"]
    pulmo(tmp_path, *arguments(server))
    assert whole(tmp_path)
    assert len(server.asked) == 7
    assert server.asked[3:] == sorted(server.asked[3:])  # what came is never asked for again
    assert server.asked[3] >= 8 * PIECE
    pulmo(tmp_path, *arguments(server))
    assert len(server.asked) == 7


def test_a_wrong_file_is_refused_and_a_mirror_helps(
    pulmo: Command, server: Server, body: bytes, tmp_path: Path
) -> None:
    server.plan = ["wrong"]
    done = pulmo(tmp_path, *arguments(server), expect=1)
    assert "gave another file than it should" in done.stderr
    assert nothing_half_made(tmp_path)
    server.plan, mirror = ["wrong"], Server(body)
    try:
        pulmo(tmp_path, *arguments(server, mirror))
    finally:
        mirror.kill()
    assert whole(tmp_path)


def test_a_server_that_stays_broken_is_a_clear_error(
    pulmo: Command, server: Server, tmp_path: Path
) -> None:
    server.plan = ["500"] * 20
    done = pulmo(tmp_path, *arguments(server), expect=1)
    assert "cannot be downloaded (HTTP Error 500" in done.stderr
    assert done.stderr.count("error:") == 1
    assert nothing_half_made(tmp_path)


def test_a_killed_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        server.plan = ["slow"]
        before = len(server.asked)
        running = start(tmp_path, server)
        part = raw(tmp_path) / f".{MD5[:12]}.npz.part"
        had = part.stat().st_size if part.is_file() else 0
        limit = time.monotonic() + 60
        while not part.is_file() or part.stat().st_size < had + 6 * PIECE:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < limit
            time.sleep(0.01)
        running.send_signal(kill)
        running.communicate()
        assert running.returncode in (-signal.SIGKILL, 143)
        assert nothing_half_made(tmp_path)
        assert server.asked[before] == had
    running = start(tmp_path, server)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 0, told
    assert server.asked[-1] >= 18 * PIECE
    assert whole(tmp_path)


def test_a_server_that_dies_and_comes_back_is_waited_for(body: bytes, tmp_path: Path) -> None:
    server = Server(body)
    server.plan, port = ["slow"], server.server_port
    running = start(tmp_path, server)
    part = raw(tmp_path) / f".{MD5[:12]}.npz.part"
    while not part.is_file() or part.stat().st_size < 4 * PIECE:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    server.kill()
    again = Server(body, port)
    try:
        _, told = running.communicate(timeout=120)
    finally:
        again.kill()
    assert running.returncode == 0, told
    assert again.asked[0] >= 4 * PIECE
    assert whole(tmp_path)


def test_two_side_by_side_download_once(server: Server, tmp_path: Path) -> None:
    server.plan = ["slow"]
    both = [start(tmp_path, server) for _ in range(2)]
    told = [one.communicate(timeout=180) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert len(server.asked) == 1
    assert whole(tmp_path)
