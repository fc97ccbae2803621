"""Work that there is no room for is known by its head."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core.wire import Problem
from pulmo.serving import shed

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n"


def test_a_plain_request_for_work_is_measured_with_its_body() -> None:
    assert shed.look(HEAD + b"abcde", 100) == shed.Request(len(HEAD) + 5)
    assert shed.look(HEAD, 100) == shed.Request(len(HEAD) + 5)
    query = HEAD.replace(b"/predict", b"/predict?explain=true")
    assert shed.look(query.replace(b"Content-Length", b"content-length"), 5) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"GET"),
        (b"/predict", b"/livez"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"\r\n\r\n", b"\r\n"),
        (b"Content-Length: 5", b"Content-Length: 101"),
        (b"Content-Length: 5", b"Content-Length: five"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Host: here", b"Expect: 100-continue"),
        (b"Host: here", b"Connection: close"),
    ],
)
def test_everything_else_goes_the_long_way(old: bytes, new: bytes) -> None:
    assert shed.look(HEAD.replace(old, new, 1), 100) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    for begin in (b"", b"POST /predict HTTP/1.1\r\n", HEAD[:-4]):
        found = shed.look(begin + data, 100)
        assert found is None or found.length > 0


def test_a_refusal_is_a_problem_with_an_id_of_its_own() -> None:
    first, second = shed.refusal(), shed.refusal()
    head, _, body = first.partition(b"\r\n\r\n")
    told = Problem.model_validate(json.loads(body))
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert told.status == 503
    assert f"x-request-id: {told.instance.removeprefix('urn:uuid:')}".encode() in head
    assert first != second
    assert len(first) == len(second)
