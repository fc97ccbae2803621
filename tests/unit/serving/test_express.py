"""Plain requests on one connection, answered or refused without a route."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from talking import HEAD, QUICK, everything, held_back, running, talk, wait_for

from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.pool import Pool

CLOSE = b"GET /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


@pytest.fixture
def port(present: Present, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr("pulmo.serving.connection._MARGIN_SECONDS", 0.2)
    monkeypatch.setattr("pulmo.serving.problems.LINGER_SECONDS", 0.2)
    with running(present, QUICK) as (_, port):
        yield port


def asking(body: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def answers(told: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Status, headers and body of each answer."""
    found = []
    while told:
        head, _, told = told.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        length = int(headers[b"content-length"])
        found.append((int(first.split()[1]), headers, told[:length]))
        told = told[length:]
    return found


def test_both_ways_answer_alike(port: int, grey_png: Callable[[int], bytes]) -> None:
    body = grey_png(5)
    long = asking(body).replace(b"/predict", b"/predict?explain=false")
    (short, slow, _) = answers(talk(port, asking(body), long, CLOSE))
    assert short[0] == slow[0] == 200
    assert short[1].keys() == slow[1].keys()
    changing = {b"x-request-id", b"date"}
    same = short[1].keys() - changing
    assert {name: short[1][name] for name in same} == {name: slow[1][name] for name in same}
    one, other = json.loads(short[2]), json.loads(slow[2])
    assert one.pop("id") != other.pop("id")
    assert one == other


@pytest.mark.parametrize("more", [b"Content-Encoding: gzip\r\n", b"X-API-Key: nobody\r\n"])
def test_what_may_not_ask_is_refused_as_ever(
    port: int, grey_png: Callable[[int], bytes], more: bytes
) -> None:
    told = talk(port, asking(grey_png(5), more))
    ((status, headers, body),) = answers(told)
    assert status == (415 if b"gzip" in more else 401)
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["status"] == status


def test_a_bad_picture_is_a_problem_and_the_connection_goes_on(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    told = answers(talk(port, asking(b"no picture"), asking(b""), asking(grey_png(5)), CLOSE))
    assert [status for status, _, _ in told] == [400, 400, 200, 200]
    problem = json.loads(told[0][2])
    assert told[0][1][b"x-request-id"].decode() in problem["instance"]
    assert told[0][1][b"cache-control"] == b"no-store"


def test_requests_in_one_piece_are_answered_in_order(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    dark, bright = asking(grey_png(5)), asking(grey_png(200))
    alive = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
    told = answers(talk(port, dark + bright + alive + dark + CLOSE))
    said = [json.loads(body).get("prediction", "alive") for _, _, body in told]
    assert said == ["DARK", "BRIGHT", "alive", "DARK", "alive"]


def test_a_body_in_pieces_is_put_together(port: int, grey_png: Callable[[int], bytes]) -> None:
    data = asking(grey_png(5))
    head = data.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (data[:head], data[head : head + 9], data[head + 9 :] + data + CLOSE):
            client.sendall(piece)
            time.sleep(0.03)
        told = answers(everything(client))
    assert [status for status, _, _ in told] == [200, 200, 200]


def test_a_head_without_its_body_is_cut(port: int) -> None:
    ((status, headers, body),) = answers(talk(port, HEAD + b"Content-Length: 9\r\n\r\n"))
    assert status == 408
    assert headers[b"connection"] == b"close"
    assert json.loads(body)["detail"] == "only 0 bytes of the body came in time"


def test_memory_for_bodies_is_bounded(present: Present) -> None:
    limits = Limits(memory_bytes=10, receive_s=5.0, linger_s=0.0, finish_s=5)
    with running(present, limits) as (_, port):
        told = answers(
            talk(port, HEAD + b"Content-Length: 30\r\n\r\n" + bytes(20), bytes(10) + CLOSE)
        )
        assert [status for status, _, _ in told] == [503, 200]
        assert told[0][1][b"retry-after"] == b"1"


def test_nothing_is_answered_behind_the_end_of_a_connection(
    present: Present, grey_png: Callable[[int], bytes]
) -> None:
    with running(present, QUICK) as (server, port):
        lane = server.config.app.state.lane  # type: ignore[union-attr]
        lane.watch.draining.begun = True
        told = answers(talk(port, asking(grey_png(5)) * 3))
    assert [(status, headers[b"connection"]) for status, headers, _ in told] == [(200, b"close")]


def test_a_failure_of_ours_is_told_and_logged(
    present: Present,
    grey_png: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    with running(present, QUICK) as (server, port):
        monkeypatch.setattr(server.config.app.state.lane, "_work", fail)  # type: ignore[union-attr]
        told = answers(talk(port, asking(grey_png(5)), CLOSE))
    assert [status for status, _, _ in told] == [500, 200]
    assert b"secret" not in told[0][2]
    assert "ZeroDivisionError" in caplog.text


def test_requests_are_counted_once_whichever_way_they_end(
    port: int, grey_png: Callable[[int], bytes]
) -> None:
    talk(port, asking(grey_png(5)), asking(b"x"), CLOSE)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(HEAD + b"Content-Length: 9\r\n\r\nabc")  # and goes away
    ask = b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    end = time.monotonic() + 20
    while b'route="/predict",status="400"} 2.0' not in (told := talk(port, ask)):
        assert time.monotonic() < end
    assert b'http_requests_total{route="/predict",status="200"} 1.0' in told
    assert b'pulmo_rejected_total{reason="broken"} 2.0' in told
    assert b"pulmo_queue_length 0.0" in told


@pytest.fixture
def held(present: Present) -> Iterator[tuple[Pool, int, Any]]:
    """A server whose answers wait for an event."""
    with running(present, QUICK) as (server, port):
        pool = server.config.app.state.lane.pool  # type: ignore[union-attr]
        with held_back(pool) as go_on:
            yield pool, port, go_on


def test_what_comes_behind_a_request_that_waits_is_not_read_on(
    held: tuple[Pool, int, Any], grey_png: Callable[[int], bytes]
) -> None:
    pool, port, go_on = held
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(asking(grey_png(5)))
        wait_for(lambda: pool.taken == 1)
        client.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2**28:
                sent += client.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n" * 1000)
        assert sent < 2**28  # the system's buffers are full, ours take one piece
        go_on.set()
        client.settimeout(20)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_left_costs_its_answer_only(
    held: tuple[Pool, int, Any], grey_png: Callable[[int], bytes]
) -> None:
    pool, port, go_on = held
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(asking(grey_png(5)))
        wait_for(lambda: pool.taken == 1)
    go_on.set()
    wait_for(lambda: pool.taken == 0)
    assert [status for status, _, _ in answers(talk(port, asking(grey_png(5)), CLOSE))] == [
        200,
        200,
    ]


def test_a_connection_that_is_idle_for_long_is_ended(
    present: Present, grey_png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.serving.server.IDLE_SECONDS", 0.4)
    with (
        running(present, QUICK) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
    ):
        for _ in range(2):
            client.sendall(asking(grey_png(5)))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            asked = time.monotonic()
            time.sleep(0.25)  # the first look is early by then
        assert client.recv(1) == b""
        assert time.monotonic() - asked > 0.35
