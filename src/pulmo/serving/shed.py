"""Refusing work before it is taken in: what there is no room for costs next to nothing."""

import re
import uuid
from dataclasses import dataclass
from http import HTTPStatus

from pulmo.core.wire import PROBLEM_TYPE
from pulmo.serving import problems

WORK = (b"POST /predict", b"POST /v2/models/")  # requests that end in the queue
BUSY = "too many requests are waiting: ask again in a moment"

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?=\r\n)", re.IGNORECASE)
_NOT_PLAIN = re.compile(rb"\r\n(transfer-encoding|expect|connection|upgrade)[ \t]*:", re.IGNORECASE)
_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Request:
    """A request that may be refused from its head; `length` is that of head and body."""

    length: int


def look(data: bytes, most: int) -> Request | None:
    """The request for work that `data` begins with, if its head is whole and plain.

    Everything else goes the long way: heads in pieces, bodies without a length or with more than
    `most` bytes, connections that are to be closed, and whatever is no HTTP/1.1.
    """
    if not data.startswith(WORK):
        return None
    end = data.find(b"\r\n\r\n")
    head = data[: end + 2]
    if end < 0 or not head.split(b"\r\n", 1)[0].endswith(b" HTTP/1.1"):
        return None
    lengths = _LENGTH.findall(head)
    if len(lengths) != 1 or _NOT_PLAIN.search(head) or int(lengths[0]) > most:
        return None
    return Request(end + 4 + int(lengths[0]))


def head(status: int, length: int, more: bytes = b"") -> bytes:
    """The head of an answer that tells a problem of `length` bytes."""
    phrase = HTTPStatus(status).phrase
    lines = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
    return f"{lines}content-length: {length}\r\n".encode() + more + b"\r\n"


def refusal() -> bytes:
    """The answer to work that there is no room for: 503 with an id of its own."""
    return _REFUSAL.replace(_ID.encode(), str(uuid.uuid4()).encode())


def _refusal() -> bytes:
    body = problems.document(503, BUSY, _ID)
    lines = (
        f"retry-after: {problems.RETRY_SECONDS}",
        f"x-request-id: {_ID}",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    )
    return head(503, len(body), "".join(f"{line}\r\n" for line in lines).encode()) + body


_REFUSAL = _refusal()
