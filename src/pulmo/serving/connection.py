"""A connection: requests that must arrive in time and within bounds, answers that must be read."""

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pulmo.serving import plain
from pulmo.serving.limits import Limits
from pulmo.serving.plain import HEAD_BYTES
from pulmo.serving.watching import Watch

PIPELINED = 32  # requests of one connection that wait behind the one that is answered
_MARGIN_SECONDS = 3.0  # for the application to say itself what is late
_GRACE_SECONDS = 0.5  # for a request that was sent just before the server ended

_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """HTTP/1.1 whose requests must arrive in time, and whose refusals are problems.

    Offers to speak another protocol are not heard, and trailers not taken.
    """

    bounds: Limits
    watch: Watch
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _due = 0.0  # when more of a request must have come
    _beside = 0  # bytes since the last one of a body
    _whole = True  # whether no part of a request is still to come
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self._idle:
            self._whole = False  # a byte more is the next request's first
            data = _without_upgrade(data)
        self._beside += len(data)
        super().data_received(data)
        if self._whole:
            self._stop_expecting()
            if self._idle and self.timeout_keep_alive_task is None:  # it came behind its answer
                self._look_again(self.timeout_keep_alive)
        elif self._late is None:
            self._expect()
        else:
            self._took(len(data))
        if not self._whole and self._beside > HEAD_BYTES:
            self._refuse(400, "the head of the request is too long")

    def on_message_begin(self) -> None:
        """Expect the rest of a request, also behind one that is being answered."""
        self._whole = self._in_body = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; trailers are let go (RFC 9110, 6.5.1)."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Answer, unless there is too much of it; what is raised here ends in a refusal."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            raise ValueError("the head of the request is too long")
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests wait on this connection")
        if self.parser.should_upgrade():  # the parser would take the body for what comes next
            raise ValueError("no other protocol is spoken here")
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a piece of a body."""
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that nothing more has to come."""
        self._in_body, self._whole, self._beside = False, True, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Give a client that does not read time for what lies here, and no more."""
        super().pause_writing()
        seconds = self.bounds.allowed(self.transport.get_write_buffer_size())
        self._stuck = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_expecting()
        self._stop_waiting()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End when idle; what a client has sent at this very moment is still answered."""
        self.loop.call_later(_GRACE_SECONDS, self._end_when_idle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _idle(self) -> bool:
        """Whether the next byte begins a request."""
        return self._whole and not self._answering

    def _end_when_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _expect(self) -> None:
        self._due = self.loop.time() + self.bounds.receive_s
        self._late = self.loop.call_at(self._due + self._margin(), self._check)

    def _took(self, received: int) -> None:
        self._due = self.bounds.due(self._due, self.loop.time(), received)

    def _margin(self) -> float:
        return _MARGIN_SECONDS

    def _check(self) -> None:
        """Cut the connection unless its request has come so far as it should."""
        due = self._due + self._margin()
        if due > self.loop.time():
            self._late = self.loop.call_at(due, self._check)
        else:
            self._cut()

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _cut(self) -> None:
        if self._in_body:
            self.transport.close()
        else:
            self._refuse(408, "the request did not arrive in time")

    def _stop_expecting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _stop_waiting(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():  # what was refused already is told and counted once
            return
        if not (self._answering or self._in_body):  # else an answer is on its way, or was given
            self.watch.figures.refused(status)
            headers = [*self.server_state.default_headers, (b"connection", b"close")]
            self.transport.write(plain.problem(status, detail, headers))
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """The first piece of a request whose offer to speak another protocol is blotted out.

    A server may leave it unheard (RFC 9110, 7.8), as HTTP/2's clients expect; the parser would end
    the request before its body.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if _UPGRADE.search(head) is None:
        return data
    return _UPGRADE.sub(b"\r\nx-offer", head) + data[len(head) :]
