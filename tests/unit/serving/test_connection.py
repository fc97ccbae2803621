import contextlib
import json
import socket
from collections.abc import Callable, Iterator

import pytest
from talking import HEAD, QUICK, everything, held_back, running, talk, wait_for

from pulmo.serving.connection import PIPELINED
from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.plain import HEAD_BYTES
from pulmo.serving.pool import Pool


@pytest.fixture
def port(present: Present, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr("pulmo.serving.connection._MARGIN_SECONDS", 0.2)
    monkeypatch.setattr("pulmo.serving.problems.LINGER_SECONDS", 0.2)
    with running(present, QUICK) as (_, port):
        yield port


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
    assert b"\r\ndate: " in head  # which every answer about the request has (RFC 9110, 6.6.1)
    document = json.loads(body)
    number = document["instance"].removeprefix("urn:uuid:").encode()
    assert b"\r\nx-request-id: %b\r\n" % number in head
    assert b"\r\nx-content-type-options: nosniff\r\n" in head
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


FAST = Limits(receive_s=0.2, slowest_rate=64, linger_s=0.0, finish_s=5)  # a second for 64 bytes


@pytest.mark.parametrize("path", [b"/predict", b"/predict?explain=false"])
def test_a_body_that_came_fast_and_stops_is_cut(
    present: Present, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.setattr("pulmo.serving.problems.LINGER_SECONDS", 0.2)
    head = HEAD.replace(b"/predict", path) + b"Content-Length: 50000\r\n\r\n"
    with (
        running(present, FAST) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        client.sendall(head)
        client.sendall(bytes(40_000))
        assert problem(everything(client)) == (408, "only 40,000 bytes of the body came in time")


def test_a_body_that_nobody_reads_and_that_came_fast_does_not_keep_a_connection(
    present: Present, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.serving.connection._MARGIN_SECONDS", 0.2)
    with (
        running(present, FAST) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 50000\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(bytes(20_000))
        client.sendall(bytes(20_000))
        assert client.recv(1) == b""


def test_a_body_that_nobody_reads_does_not_keep_a_connection(port: int) -> None:
    told = talk(port, b"GET /livez HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nx")
    assert told.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("more", "end"),
    [(b"Content-Length: 1", b"x"), (b"Transfer-Encoding: chunked", b"0\r\n\r\n")],
)
def test_the_end_of_a_body_behind_its_answer_does_not_keep_a_connection(
    present: Present, monkeypatch: pytest.MonkeyPatch, more: bytes, end: bytes
) -> None:
    monkeypatch.setattr("pulmo.serving.server.IDLE_SECONDS", 0.4)
    with (
        running(present, QUICK) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\n" + more + b"\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(end)
        assert client.recv(1) == b""


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


@pytest.fixture
def busy(present: Present) -> Iterator[tuple[Pool, int]]:
    """A server without room, until its pool's `taken` is set to nothing."""
    with running(present, QUICK) as (server, port):
        pool = server.config.app.state.lane.pool  # type: ignore[union-attr]
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


def test_a_page_elsewhere_is_told_that_there_is_no_room(present: Present) -> None:
    page = "https://page.example"
    asked = HEAD + b"Origin: %b\r\nContent-Length: 3\r\n\r\nabc" % page.encode()
    with running(present, QUICK, cors_origins=page) as (server, port):
        pool = server.config.app.state.lane.pool  # type: ignore[union-attr]
        pool.taken = 99
        head = talk(port, asked).partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"\r\nretry-after: 1" in head
    assert b"\r\naccess-control-allow-origin: https://page.example" in head
    assert pool.shed == 0


def test_a_body_that_nobody_wants_and_that_dribbles_is_cut(
    busy: tuple[Pool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.serving.connection._MARGIN_SECONDS", 0.2)
    pool, port = busy
    told = talk(port, HEAD + b"Content-Length: 500\r\n\r\n", b"x")
    assert told.startswith(b"HTTP/1.1 503 ")
    assert told.count(b"HTTP/1.1 ") == 1
    assert pool.shed == 1


def test_a_long_head_is_refused_also_when_it_is_whole(port: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: here\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n"
    assert problem(talk(port, head))[0] == 400


def test_garbage_after_a_request_is_refused_behind_its_answer(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    told = talk(port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\x16\x03 \r\n")
    assert told.startswith(b"HTTP/1.1 200 ")
    assert told.count(b"HTTP/1.1 ") == 2
    assert told.count(b"HTTP/1.1 400 ") == 1


OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
ALIVE = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"


def test_an_offer_of_another_protocol_is_not_heard(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for offer in (OFFER, OFFER.upper()):
            client.sendall(HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            told = client.recv(65536)
            assert told.startswith(b"HTTP/1.1 200 ")
            assert b'"prediction":"DARK"' in told


def test_a_body_behind_an_offer_is_never_taken_for_a_request(port: int) -> None:
    smuggling = HEAD + OFFER + b"Content-Length: %d\r\n\r\n" % len(ALIVE)
    told = talk(port, ALIVE + smuggling + ALIVE)  # not the first: its offer is heard, and refused
    assert told.count(b"HTTP/1.1 ") <= 1


def test_trailers_are_let_go_and_bounded(port: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for _ in range(2):
            client.sendall(head + b"Authorization: Bearer x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionError):
            client.sendall(head + b"a: b\r\n" * HEAD_BYTES)
            assert everything(client).count(b"HTTP/1.1 ") <= 1


def test_a_client_that_does_not_read_is_cut(present: Present) -> None:
    with running(present, QUICK) as (server, port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * PIPELINED)
        wait_for(lambda: not server.server_state.connections)


def test_requests_that_wait_on_a_connection_are_bounded(port: int) -> None:
    last = ALIVE.replace(b"Host: here", b"Host: here\r\nConnection: close")
    assert talk(port, ALIVE * PIPELINED + last).count(b"HTTP/1.1 200 ") == PIPELINED + 1
    with contextlib.suppress(ConnectionError):
        assert talk(port, ALIVE * 100 * PIPELINED).count(b"HTTP/1.1 200 ") < 2 * PIPELINED


def test_a_client_that_asks_without_room_and_does_not_read_is_cut(
    busy: tuple[Pool, int],
) -> None:
    pool, port = busy
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                client.sendall((HEAD + b"Content-Length: 0\r\n\r\n") * 100)
    assert pool.shed < 100_000  # of a million


def test_a_head_behind_a_request_that_waits_is_bounded_too(
    present: Present, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    long = HEAD.replace(b"/predict", b"/predict?explain=false")
    with running(present, QUICK) as (server, port):
        pool = server.config.app.state.lane.pool  # type: ignore[union-attr]
        address = ("127.0.0.1", port)
        with held_back(pool), socket.create_connection(address, timeout=20) as client:
            client.sendall(long + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: pool.taken == 1)
            client.sendall(b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * HEAD_BYTES)
            wait_for(lambda: not server.server_state.connections)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_long_head_is_told_and_counted_once(port: int, end: bytes) -> None:
    told = talk(port, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES + end)
    assert told.count(b"HTTP/1.1 ") == 1
    figures = talk(port, b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert b'pulmo_rejected_total{reason="broken"} 1.0' in figures


def test_refusals_of_the_connection_are_counted(busy: tuple[Pool, int]) -> None:
    pool, port = busy
    talk(port, b"no HTTP\r\n\r\n")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall((HEAD + b"Content-Length: 0\r\n\r\n") * 2)
        wait_for(lambda: pool.shed == 2)
    told = talk(port, b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").decode()
    assert 'http_requests_total{route="none",status="503"} 2.0' in told
    assert 'http_requests_total{route="none",status="400"} 1.0' in told
    assert 'pulmo_rejected_total{reason="busy"} 2.0' in told
