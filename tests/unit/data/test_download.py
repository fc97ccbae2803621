"""A download ends in the right bytes or in a clear error, whatever the server does."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pulmo.data import download
from pulmo.data.download import fetch
from pulmo.errors import ConfigError, DataError

DATA = bytes(range(256)) * 3000
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()

Serve = Callable[..., str]


class Handler(BaseHTTPRequestHandler):
    """Answers with what its server was told, one answer a request, the last one for good."""

    server: "Server"

    def do_GET(self) -> None:
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.requests += 1
        self.close_connection = True
        if answer == "hang up":
            return
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        if answer != "no length":
            self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        body = {"wrong": b"x" * len(DATA), "break": DATA[:1000]}.get(answer, DATA)
        self.wfile.write(body)
        if answer == "stall":
            self.server.stop.wait()

    def log_message(self, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    answers: list[str | int]
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stop = threading.Event()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


def url(server: Server, *answers: str | int) -> str:
    server.answers = list(answers)
    return f"http://127.0.0.1:{server.server_port}/file"


@pytest.mark.parametrize(
    "answers", [["whole"], ["no length"], [500, "whole"], [429, 503, "whole"], ["break", "whole"],
                ["hang up", "whole"]],
)  # fmt: skip
def test_what_may_pass_is_tried_again(
    server: Server, tmp_path: Path, answers: list[str | int]
) -> None:
    target = fetch(url(server, *answers), MD5, tmp_path / "raw" / "file")
    assert target.read_bytes() == DATA
    assert server.requests == len(answers)
    assert list(target.parent.iterdir()) == [target]


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(url(server, "whole"), MD5, tmp_path / "file")
    assert server.requests == 1


def test_what_is_there_and_wrong_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"half")
    assert fetch(url(server, "whole"), MD5, tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (404, 1, r"cannot be downloaded \(HTTP Error 404"),
        (500, download.ATTEMPTS, "cannot be downloaded .*mirror"),
        ("break", download.ATTEMPTS, "broke off after 1,000 of 768,000 bytes"),
        ("wrong", 1, r"another file than data\.md5="),
    ],
)
def test_what_does_not_pass_is_a_data_error_and_leaves_nothing(
    server: Server, tmp_path: Path, answer: str | int, requests: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fetch(url(server, answer), MD5, tmp_path / "file")
    assert server.requests == requests
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stalls_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(download, "_PIECE", len(DATA) + 1)
    server.answers = ["no length"]

    def stalling(self: Handler) -> None:
        self.send_response(200)
        self.end_headers()
        self.server.stop.wait()

    monkeypatch.setattr(Handler, "do_GET", stalling)
    with pytest.raises(DataError, match="timed out"):
        fetch(f"http://127.0.0.1:{server.server_port}/", MD5, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_nobody_there_is_a_data_error(tmp_path: Path, server: Server) -> None:
    with Server() as other:
        port = other.server_port
    with pytest.raises(DataError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/file", MD5, tmp_path / "file")


def test_an_endless_file_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        fetch(url(server, "no length"), MD5, tmp_path / "file")


def test_an_answer_that_makes_no_sense_is_a_data_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Handler) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "many")
        self.end_headers()

    monkeypatch.setattr(Handler, "do_GET", answer)
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(url(server, "whole"), MD5, tmp_path / "file")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/file", "/etc/passwd", ""])
def test_only_http_is_spoken(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="no http or https address"):
        fetch(address, MD5, tmp_path / "file")
