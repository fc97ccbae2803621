"""Requests for answers whose head is plain, read by one pattern; and answers as bytes.

What a web server does with a request of any kind costs a model's server more than all else that it
does for one, as none of its code is in the processor's caches when a graph has run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from pulmo.core.wire import PROBLEM_TYPE
from pulmo.serving import problems
from pulmo.serving.watching import HEADERS, request_id

HEAD_BYTES = 16 * 1024  # of a head, and of whatever else comes without a byte of a body
BUSY = "too many requests are waiting: ask again in a moment"

_TOKEN, _TEXT = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", rb"[\t\x20-\x7e\x80-\xff]*"  # RFC 9110, 5.6.2, 5.5
_HEAD = re.compile(
    rb"POST (/predict|/v2/models/)([!-~]*) HTTP/1\.1\r\n((?:%b:%b\r\n)+)\r\n" % (_TOKEN, _TEXT)
)
_LINE = re.compile(rb"([^:\r\n]+):([^\r\n]*)\r\n")
_LENGTH = re.compile(rb"[0-9]{1,12}")
_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer"})
_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Plain:
    """A request for answers: `start` is where its body of `length` bytes begins.

    Names of `headers` are in lower case, none is there twice.
    """

    path: bytes
    headers: Mapping[bytes, bytes]
    start: int
    length: int


def look(data: bytes, most: int) -> Plain | None:
    """The request for answers that `data` begins with, if its head is whole and plain.

    Everything else goes the long way: heads in pieces, bodies without a length or with more than
    `most` bytes, connections that are to be closed, and whatever is no HTTP/1.1.
    """
    found = _HEAD.match(data, 0, HEAD_BYTES)
    if found is None:
        return None
    lines = _LINE.findall(found[3])
    headers = {name.lower(): value.strip(b" \t") for name, value in lines}
    length = headers.get(b"content-length", b"")
    if len(headers) < len(lines) or b"host" not in headers or not _NOT_PLAIN.isdisjoint(headers):
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    if _LENGTH.fullmatch(length) is None or int(length) > most:
        return None
    return Plain(found[1] + found[2], headers, found.end(), int(length))


def head(status: int, length: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer whose body has so many bytes."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {length}\r\n"
    return first.encode() + lines + b"\r\n"


def problem(status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """An answer that tells a problem, with an id of its own."""
    return _told(status, detail, request_id(), headers)


def refusal() -> bytes:
    """The answer to work that there is no room for: 503 with an id of its own."""
    return _REFUSAL.replace(_ID.encode(), request_id().encode())


def _told(status: int, detail: str, number: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = problems.document(status, detail, number)
    kind, named = (b"content-type", PROBLEM_TYPE.encode()), (b"x-request-id", number.encode())
    return head(status, len(body), [kind, named, *HEADERS, *headers]) + body


_REFUSAL = _told(503, BUSY, _ID, [(b"retry-after", b"%d" % problems.RETRY_SECONDS)])
