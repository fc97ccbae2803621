import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from pulmo.config.settings import Settings
from pulmo.errors import ConfigError
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits, Pool
from pulmo.serving.models import Present
from pulmo.serving.server import HEAD_BYTES, listen, make_server, turn_away

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
QUICK = Limits(receive_s=0.2, slowest_rate=2**20, linger_s=0.0, finish_s=5)


@contextmanager
def running(present: Present, limits: Limits) -> Iterator[tuple[uvicorn.Server, int]]:
    server = make_server(create_app(Settings(), present, limits), limits)
    taken = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield server, taken.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def port(present: Present, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr("pulmo.serving.server._MARGIN_SECONDS", 0.2)
    monkeypatch.setattr("pulmo.serving.problems.LINGER_SECONDS", 0.2)
    with running(present, QUICK) as (_, port):
        yield port


def talk(port: int, *pieces: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for piece in pieces:
            client.sendall(piece)
        return everything(client)


def everything(client: socket.socket) -> bytes:
    told = b""
    while piece := client.recv(65536):
        told += piece
    return told


def dribble(port: int, text: bytes) -> bytes:
    """What the server says to a client that sends one byte after the other, slowly."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for byte in text:
            client.sendall(bytes([byte]))
            client.settimeout(0.02)
            try:
                told = client.recv(65536)
            except TimeoutError:
                continue
            client.settimeout(20)
            return told + everything(client)
    raise AssertionError("the client was never cut")


def problem(told: bytes) -> tuple[int, str]:
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % document["status"])
    return document["status"], document["detail"]


def test_a_head_that_dribbles_is_cut(port: int) -> None:
    assert problem(dribble(port, HEAD * 9)) == (408, "the request did not arrive in time")


def test_a_connection_without_a_word_is_cut(port: int) -> None:
    assert problem(talk(port))[0] == 408


def test_a_body_that_dribbles_is_cut(port: int) -> None:
    status, detail = problem(dribble_body(port))
    assert status == 408
    assert "of the body came in time" in detail


def dribble_body(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(HEAD + b"Content-Length: 500\r\n\r\n")
        for _ in range(400):
            client.settimeout(0.02)
            try:
                told = client.recv(65536)
            except TimeoutError:
                client.sendall(b"x")
                continue
            client.settimeout(20)
            return told + everything(client)
    raise AssertionError("the client was never cut")


def test_a_body_that_nobody_reads_does_not_keep_a_connection(port: int) -> None:
    told = talk(port, b"GET /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nx")
    assert told.startswith(b"HTTP/1.1 200 ")


def test_what_is_no_http_is_a_problem(port: int) -> None:
    assert problem(talk(port, b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"))[0] == 400
    long = b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES
    assert problem(talk(port, long))[0] == 400


def test_a_refusal_reaches_a_client_that_still_sends(port: int) -> None:
    size = 40 * 2**20
    told = talk(port, HEAD + b"Content-Length: %d\r\n\r\n" % size, bytes(2**20), bytes(2**20))
    assert problem(told)[0] == 413


def test_a_connection_serves_many_requests(port: int, grey_png: Callable[[int], bytes]) -> None:
    body = grey_png(5)
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = one.replace(b"Host: here", b"Host: here\r\nConnection: close")
    told = talk(port, one, one, last)
    assert told.count(b"HTTP/1.1 200 ") == 3
    assert told.count(b'"prediction":"DARK"') == 3


def test_the_end_waits_for_a_request_that_has_begun(
    present: Present, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    limits = Limits(linger_s=0.0)
    with running(present, limits) as (server, port):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        idle = socket.create_connection(("127.0.0.1", port), timeout=20)
        with client, idle:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:9])
            server.should_exit = True
            assert everything(idle) == b""  # by now connections are being closed
            client.sendall(body[9:])
            told = everything(client)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in told.lower()


def test_an_address_that_is_taken_is_told(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port} cannot be served"):
        listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be served"):
        listen("no host", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")
def test_who_is_connected_is_heard_and_newcomers_are_not() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early:
            early.sendall(b"asked ")
            turn_away(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)
            taken, _ = listener.accept()
            with taken:
                early.sendall(b"twice")
                early.shutdown(socket.SHUT_WR)
                assert everything(taken) == b"asked twice"


@pytest.fixture
def busy(present: Present) -> Iterator[tuple[Pool, int]]:
    """A server without room, until its pool's `taken` is set to nothing."""
    with running(present, QUICK) as (server, port):
        pool = server.config.app.state.pool  # type: ignore[union-attr]
        pool.taken = 99
        yield pool, port


def test_work_without_room_is_refused_and_its_body_thrown_away(
    busy: tuple[Pool, int], grey_png: Callable[[int], bytes]
) -> None:
    pool, port = busy
    body = grey_png(5)
    large = HEAD + b"Content-Length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(large + bytes(100_000))
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
        client.sendall(bytes(100_000) + large + bytes(200_000))
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert pool.shed == 2
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        pool.taken = 0
        last = HEAD.replace(b"Host: here", b"Host: here\r\nConnection: close")
        client.sendall(last + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b'"prediction":"DARK"' in everything(client)
    assert pool.shed == 2


def test_requests_in_a_row_without_room_are_each_refused(busy: tuple[Pool, int]) -> None:
    pool, port = busy
    one = HEAD + b"Content-Length: 3\r\n\r\nabc"
    last = one.replace(b"Host: here", b"Host: here\r\nConnection: close")
    told = talk(port, one + one + last)  # the last goes the long way
    assert told.count(b"HTTP/1.1 503 ") == 3
    assert told.lower().count(b"retry-after: 1") == 3
    assert pool.shed == 2


def test_a_body_that_nobody_wants_and_that_dribbles_is_cut(
    busy: tuple[Pool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.serving.server._MARGIN_SECONDS", 0.2)
    pool, port = busy
    told = talk(port, HEAD + b"Content-Length: 500\r\n\r\n", b"x")
    assert told.startswith(b"HTTP/1.1 503 ")
    assert told.count(b"HTTP/1.1 ") == 1
    assert pool.shed == 1


def test_a_long_head_is_refused_also_when_it_is_whole(port: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: here\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n"
    assert problem(talk(port, head))[0] == 400


def test_garbage_after_a_request_does_not_cut_its_answer_in_two(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    told = talk(port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\x16\x03 \r\n")
    assert told.count(b"HTTP/1.1 ") <= 1
