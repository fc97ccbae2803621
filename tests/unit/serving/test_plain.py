"""Plain requests for answers are known by their head."""

import json

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core.wire import Problem
from pulmo.serving import plain
from pulmo.serving.watching import HEADERS

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n"


def test_a_plain_request_is_measured_with_its_body() -> None:
    for data in (HEAD, HEAD + b"abcde"):
        asked = plain.look(data, 100)
        assert asked is not None
        assert (asked.path, asked.start, asked.length) == (b"/predict", len(HEAD), 5)
        assert asked.headers == {b"host": b"here", b"content-length": b"5"}
    query = HEAD.replace(b"/predict", b"/predict?explain=true")
    asked = plain.look(query.replace(b"Content-Length", b"content-length"), 5)
    assert asked is not None
    assert asked.path == b"/predict?explain=true"


def test_values_are_bare_and_may_be_empty() -> None:
    lines = b"A:\tb  c \r\nD:\r\nConnection: Keep-Alive\r\n"
    asked = plain.look(HEAD.replace(b"Host", lines + b"Host"), 100)
    assert asked is not None
    assert asked.headers[b"a"] == b"b  c"
    assert asked.headers[b"d"] == b""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"GET"),
        (b"POST", b"post"),
        (b"/predict", b"/livez"),
        (b"/predict", b"http://here/predict"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"\r\n\r\n", b"\r\n"),
        (b"Host: here\r\n", b"Host: here\n"),
        (b"Host: here\r\n", b""),
        (b"Host: here\r\n", b"Host: here\r\nhost: there\r\n"),
        (b"Host: here\r\n", b"Host : here\r\n"),
        (b"Host: here\r\n", b"Host: here\r\n more\r\n"),
        (b"Host: here\r\n", b"Host: he\0re\r\n"),
        (b"Host: here\r\n", b"Host: he\rre\r\n"),
        (b"Content-Length: 5", b"Content-Length: 101"),
        (b"Content-Length: 5", b"Content-Length: five"),
        (b"Content-Length: 5", b"Content-Length: +5"),
        (b"Content-Length: 5", b"Content-Length: 5, 5"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 5\r\n", b""),
        (b"Host: here", b"Expect: 100-continue\r\nHost: here"),
        (b"Host: here", b"Connection: close\r\nHost: here"),
        (b"Host: here", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost: here"),
        (b"Host: here", b"X: " + b"x" * plain.HEAD_BYTES + b"\r\nHost: here"),
    ],
)
def test_everything_else_goes_the_long_way(old: bytes, new: bytes) -> None:
    assert plain.look(HEAD.replace(old, new, 1), 100) is None


class Heard:
    """What a whole parser hears."""

    def __init__(self) -> None:
        self.url, self.headers, self.body, self.ended = b"", dict[bytes, bytes](), b"", 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value.strip(b" \t")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


NAMES = st.sampled_from(
    [b"Accept", b"X-a", b"x_b", b"Cookie", b"Content-Type", b"Connection", b"Te"]
)
VALUES = st.one_of(
    st.sampled_from(
        [b"", b" a", b"\t a b ", b" keep-alive", b" x:y", b" \xe9", b" a\r\n b", b"\x7f"]
    ),
    st.binary(max_size=4),
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@given(LINES, st.binary(max_size=20), st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_what_is_plain_means_the_same_to_a_whole_parser(
    lines: list[tuple[bytes, bytes]], body: bytes, end: bytes
) -> None:
    said = b"".join(name + b":" + value + b"\r\n" for name, value in lines)
    length = b"Content-Length: %d" % len(body) + end
    head = b"POST /predict HTTP/1.1\r\nHost: here\r\n" + said + length + b"\r\n"
    asked = plain.look(head, 100)
    if asked is None:
        return
    heard = Heard()
    httptools.HttpRequestParser(heard).feed_data(head + body)
    assert (heard.url, heard.body, heard.ended) == (asked.path, body, 1)
    assert heard.headers == asked.headers
    assert asked.start == len(head)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    for begin in (b"", b"POST /predict HTTP/1.1\r\n", HEAD[:-4]):
        found = plain.look(begin + data, 100)
        assert found is None or 0 < found.start <= len(begin + data)


def test_a_problem_has_an_id_and_the_headers_it_is_given() -> None:
    head, _, body = plain.problem(408, "late", [(b"connection", b"close")]).partition(b"\r\n\r\n")
    told = Problem.model_validate(json.loads(body))
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert head.endswith(b"\r\nconnection: close")
    assert (told.status, told.detail) == (408, "late")
    assert b"x-request-id: %b\r\n" % told.instance.removeprefix("urn:uuid:").encode() in head
    assert len(told.instance) == len("urn:uuid:") + 36
    assert all(b"\r\n%b: %b\r\n" % pair in head for pair in HEADERS)


def test_a_refusal_is_a_problem_with_an_id_of_its_own() -> None:
    first, second = plain.refusal(), plain.refusal()
    head, _, body = first.partition(b"\r\n\r\n")
    told = Problem.model_validate(json.loads(body))
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert told.status == 503
    assert all(b"\r\n%b: %b" % pair in head for pair in HEADERS)
    assert f"x-request-id: {told.instance.removeprefix('urn:uuid:')}".encode() in head
    assert first != second
    assert len(first) == len(second)
