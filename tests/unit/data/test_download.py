"""A download ends in the right bytes or in a clear error, whatever the server does."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pulmo.config.schema import DataConfig
from pulmo.data import download
from pulmo.data.download import Remote, fetch, wanted
from pulmo.errors import ConfigError, DataError

DATA = bytes(range(256)) * 3000
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = b"x" * len(DATA)
CUT = 200_000


class Handler(BaseHTTPRequestHandler):
    """Answers with what its server was told, one answer a request, the last one for good."""

    server: "Server"

    def do_GET(self) -> None:
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append(self.headers.get("Range"))
        self.close_connection = True
        if answer == "hang up":
            return
        if isinstance(answer, int):
            self.send_error(answer)
            return
        body = OTHER if answer == "wrong" else DATA
        start = self._start(answer, body)
        if start is None:
            return
        if answer not in ("no length", "endless"):
            self.send_header("Content-Length", str(len(body) - start))
        if answer not in ("no tag", "wrong"):
            self.send_header("ETag", '"one"')
        self.end_headers()
        whole = answer not in ("break", "stall")
        self.wfile.write(body[start:] if whole else body[start : start + CUT])
        if answer == "stall":
            self.wfile.flush()
            self.server.stop.wait()

    def _start(self, answer: str, body: bytes) -> int | None:
        """Begin an answer with 200, 206 or 416; where its body starts."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, '"one"')
        if asked is None or not same or answer in ("no range", "wrong"):
            self.send_response(200)
            return 0
        start = int(asked[1])
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206)
        shown = 0 if answer == "elsewhere" else start
        self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        return start

    def log_message(self, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stop = threading.Event()
        self.answers: list[str | int] = ["whole"]
        self.asked: list[str | None] = []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(download.time, "sleep", made.append)
    return made


@pytest.fixture
def server(pauses: list[float]) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


def at(
    server: Server, *answers: str | int, md5: str | None = MD5, sha256: str | None = None
) -> Remote:
    server.answers = list(answers)
    return Remote((f"http://127.0.0.1:{server.server_port}/file",), md5, sha256)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    "answers", [["whole"], ["no length"], [500, "whole"], [429, 503, "whole"], ["break", "whole"],
                ["hang up", "whole"], ["break", "break", "whole"], ["break", "elsewhere", "whole"],
                ["break", "no range"]],
)  # fmt: skip
def test_what_may_pass_is_tried_again(
    server: Server, tmp_path: Path, answers: list[str | int]
) -> None:
    target = fetch(at(server, *answers), tmp_path / "raw" / "file")
    assert target.read_bytes() == DATA
    assert len(server.asked) == len(answers)
    assert names(target.parent) == {"file"}


def test_a_download_that_broke_off_is_continued(server: Server, tmp_path: Path) -> None:
    fetch(at(server, "break", "whole"), tmp_path / "file")
    assert server.asked == [None, f"bytes={CUT}-"]


def half_made(folder: Path, server: Server, part: bytes, validator: str = '"one"') -> None:
    """What a killed download leaves."""
    (folder / ".file.part").write_bytes(part)
    url = f"http://127.0.0.1:{server.server_port}/file"
    notes = {"url": url, "validator": validator}
    (folder / ".file.part.json").write_text(json.dumps(notes))


@pytest.mark.parametrize("part", [DATA[:12345], DATA])
def test_what_a_killed_download_left_is_continued(
    server: Server, tmp_path: Path, part: bytes
) -> None:
    half_made(tmp_path, server, part)
    assert fetch(at(server, "whole"), tmp_path / "file").read_bytes() == DATA
    assert server.asked == [f"bytes={len(part)}-"]


@pytest.mark.parametrize(
    ("part", "validator"), [(b"y" * 999, '"older"'), (b"y" * 999, '"one"'), (DATA + b"y", '"one"')]
)
def test_the_part_of_another_file_is_thrown_away(
    server: Server, tmp_path: Path, part: bytes, validator: str
) -> None:
    half_made(tmp_path, server, part, validator)
    assert fetch(at(server, "whole"), tmp_path / "file").read_bytes() == DATA
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("notes", [b"{", b"[]", None])
def test_a_part_that_nothing_is_known_of_is_continued_where_a_digest_will_tell(
    server: Server, tmp_path: Path, notes: bytes | None
) -> None:
    half_made(tmp_path, server, DATA[:777])
    (tmp_path / ".file.part.json").unlink()
    if notes is not None:
        (tmp_path / ".file.part.json").write_bytes(notes)
    fetch(at(server, "no tag", sha256=SHA256, md5=None), tmp_path / "file")
    assert server.asked == ["bytes=777-"]
    (tmp_path / "file").unlink()
    (tmp_path / ".file.part").write_bytes(DATA[:777])
    fetch(at(server, "no tag", md5=None), tmp_path / "file")
    assert server.asked == ["bytes=777-", None]


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(at(server, "whole"), tmp_path / "file")
    assert len(server.asked) == 1


def test_what_is_there_and_wrong_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"half")
    assert fetch(at(server, "whole"), tmp_path / "file").read_bytes() == DATA


def test_an_unknown_digest_is_recorded_and_held(server: Server, tmp_path: Path) -> None:
    target = fetch(at(server, "whole", md5=None), tmp_path / "file")
    assert (tmp_path / "file.sha256").read_text() == f"{SHA256}\n"
    target.unlink()
    with pytest.raises(DataError, match="another file than it should"):
        fetch(at(server, "wrong", md5=None), target)
    assert names(tmp_path) == {"file.sha256"}


@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (404, 1, r"cannot be downloaded \(HTTP Error 404"),
        (500, download.ATTEMPTS, r"cannot be downloaded .*mirror or data\.root"),
        ("hang up", download.ATTEMPTS, "cannot be downloaded"),
        ("wrong", 1, "another file than it should: its MD5 is"),
    ],
)
def test_what_does_not_pass_is_a_data_error_and_leaves_nothing(
    server: Server, tmp_path: Path, answer: str | int, requests: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fetch(at(server, answer), tmp_path / "file")
    assert len(server.asked) == requests
    assert names(tmp_path) == set()


def test_pauses_grow_and_the_server_may_ask_for_longer(
    server: Server, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError):
        fetch(at(server, 503), tmp_path / "file")
    assert pauses == [1.0, 2.0, 4.0]
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for header, pause in (("7", 7.0), (later, download.LONGEST_PAUSE_S), ("soon", 1.0)):
        pauses.clear()

        def refuse(self: Handler, header: str = header) -> None:
            self.send_response(429)
            self.send_header("Retry-After", header)
            self.send_header("Content-Length", "0")
            self.end_headers()

        monkeypatch.setattr(Handler, "do_GET", refuse)
        with pytest.raises(DataError, match="429"):
            fetch(at(server, "whole"), tmp_path / "file")
        assert pauses[0] == pause


def test_a_mirror_is_asked_where_the_first_address_fails(server: Server, tmp_path: Path) -> None:
    remote = at(server, "wrong", "whole")
    twice = Remote(remote.urls * 2, MD5)
    assert fetch(twice, tmp_path / "file").read_bytes() == DATA
    with pytest.raises(DataError, match=r"404.*; .*404"):
        fetch(Remote(at(server, 404).urls * 2, MD5), tmp_path / "another")


def test_a_server_that_stalls_is_left_and_its_bytes_are_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    assert fetch(at(server, "stall", "whole"), tmp_path / "file").read_bytes() == DATA
    assert server.asked == [None, f"bytes={CUT}-"]


def test_nobody_there_is_a_data_error(tmp_path: Path, pauses: list[float]) -> None:
    with Server() as other:
        port = other.server_port
    with pytest.raises(DataError, match="refused"):
        fetch(Remote((f"http://127.0.0.1:{port}/file",), MD5), tmp_path / "file")


@pytest.mark.parametrize("answer", ["whole", "endless"])
def test_a_file_that_is_too_large_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DataError, match=r"more than 1,000.*not downloaded"):
        fetch(at(server, answer), tmp_path / "file")


def test_without_length_and_digest_nobody_could_tell_a_half_from_a_whole(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"set data\.sha256"):
        fetch(at(server, "no length", md5=None), tmp_path / "file")


def test_an_answer_that_makes_no_sense_is_a_data_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"what?\r\n\r\n"))
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(at(server, "whole"), tmp_path / "file")
    with pytest.raises(DataError, match="no address"):
        fetch(Remote(("http://[host/",), MD5), tmp_path / "file")


def test_a_disk_that_refuses_is_said_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".file.part.json").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        fetch(at(server, "whole"), tmp_path / "file")
    assert len(server.asked) == 1


def test_two_downloads_side_by_side_are_one(server: Server, tmp_path: Path) -> None:
    remote = at(server, "whole")
    threads = [threading.Thread(target=fetch, args=(remote, tmp_path / "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(server.asked) == 1


Configure = Callable[..., DataConfig]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/file", "/etc/passwd", ""])
def test_only_http_is_spoken(configure: Configure, address: str) -> None:
    with pytest.raises(ConfigError, match="no http or https address"):
        wanted(configure(url=address))
    with pytest.raises(ConfigError, match="no http or https address"):
        wanted(configure(url="http://host/file", mirrors=[address]))


def test_a_file_is_known_by_its_digest_or_else_its_address() -> None:
    assert Remote(("http://host/a",), MD5).key == MD5[:12]
    assert Remote(("http://host/a",), MD5, SHA256).key == SHA256[:12]
    assert Remote(("http://host/a",)).key != Remote(("http://host/b",)).key
