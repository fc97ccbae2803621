import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pulmo.errors import ConfigError
from pulmo.registry import outward
from pulmo.registry.outward import ANSWER_BYTES, check_url, is_loopback, post

HERE = frozenset({"127.0.0.1"})


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status, headers, text, pause = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for byte in text:
            self.wfile.write(bytes([byte]) if pause else text)
            if not pause:
                break
            self.wfile.flush()
            time.sleep(pause)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.answer = [], (202, {}, b"taken", 0)  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/hook?a=b"


def answer(server: ThreadingHTTPServer, *answered: object) -> None:
    server.answer = answered  # type: ignore[attr-defined]


def test_a_body_arrives_with_its_headers(server: ThreadingHTTPServer, url: str) -> None:
    answered = post(url, b"body", {"X-Own": "1"}, private_hosts=HERE)
    assert (answered.status, answered.wait_s, answered.body) == (202, 0.0, b"taken")
    (seen,) = server.seen  # type: ignore[attr-defined]
    assert (seen[0], seen[1]["X-Own"], seen[2]) == ("/hook?a=b", "1", b"body")
    assert seen[1]["User-Agent"].startswith("pulmo/")


def test_redirects_are_not_followed(server: ThreadingHTTPServer, url: str) -> None:
    answer(server, 307, {"Location": url, "Retry-After": "7"}, b"", 0)
    answered = post(url, b"body", {}, private_hosts=HERE)
    assert (answered.status, answered.wait_s) == (307, 7.0)
    assert len(server.seen) == 1  # type: ignore[attr-defined]


def test_a_long_answer_is_cut_off(server: ThreadingHTTPServer, url: str) -> None:
    answer(server, 200, {"Retry-After": "soon"}, b"x" * (2 * ANSWER_BYTES), 0)
    answered = post(url, b"body", {}, private_hosts=HERE)
    assert (len(answered.body), answered.wait_s) == (ANSWER_BYTES, 0.0)


def test_an_answer_that_drips_is_not_waited_for(server: ThreadingHTTPServer, url: str) -> None:
    answer(server, 200, {"Content-Length": "1000"}, b"x" * 1000, 0.05)
    answered = post(url, b"body", {}, private_hosts=HERE, timeout_s=0.3)
    assert answered.status == 200
    assert len(answered.body) < 1000


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://user:secret@host/x", "user name"),
        ("https://host/#x", "user name"),
        ("http://host/x", "only https"),
        ("http://127.0.0.1/x", "only https"),
        ("ftp://host/x", "only https"),
        ("https:///x", "names no host"),
        ("https://host:0/x", "names no host"),
        ("https://host:99999/x", "is no address"),
        ("https://[::1/x", "is no address"),
        ("https://ho st/x", "characters"),
        ("https://hö.st/x", "characters"),
        ("https://ho%73t/x", "names no host"),
    ],
)
def test_an_address_that_is_none_is_told(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as told:
        check_url(url, frozenset())
    assert "secret" not in str(told.value)


def test_http_is_for_this_machine_alone_and_only_where_it_is_listed() -> None:
    assert check_url("http://localhost:1/x", frozenset({"localhost"})).port == 1
    with pytest.raises(ConfigError, match="only https"):
        check_url("http://internal/x", frozenset({"internal"}))
    assert (is_loopback("::1"), is_loopback("internal")) == (True, False)


PRIVATE = [
    "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "::ffff:127.0.0.1", "fe80::1",
    "fd00:ec2::254", "fc00::1", "64:ff9b::7f00:1", "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:0:1",
    "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_of_a_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        return [(0, 0, 0, "", (one, 443)) for one in ("93.184.215.14", address)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConfigError, match="not public"):
        post("https://hooks.example/x", b"", {})


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_metadata_is_not_asked_for_even_where_the_host_is_listed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 443))])
    with pytest.raises(ConfigError, match="not public"):
        post("https://metadata.internal/x", b"", {}, private_hosts=frozenset({"metadata.internal"}))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_a_public_address_is_allowed(address: str) -> None:
    outward._require_allowed("host", address, listed=False)


def test_the_address_that_was_reached_is_checked_once_more(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []

    def require(host: str, address: str, listed: bool) -> None:
        reached.append(address)
        if len(reached) == 2:
            raise ConfigError("not this one")

    monkeypatch.setattr(outward, "_require_allowed", require)
    with pytest.raises(ConfigError, match="not this one"):
        post(url, b"", {}, private_hosts=HERE)
    assert reached == ["127.0.0.1", "127.0.0.1"]


def test_a_host_that_is_no_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no name of a host"):
        post(f"https://{'a' * 70}.example/x", b"", {})


def test_https_asks_for_a_certificate(
    url: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="SSL"):
        post(url.replace("http:", "https:"), b"", {}, private_hosts=HERE, timeout_s=2)
    assert server.seen == []  # type: ignore[attr-defined]
