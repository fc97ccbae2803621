"""Plain requests for answers: their connection refuses them or has them answered, by itself."""

import time
from collections.abc import Callable

from pulmo.errors import BusyError, DataError, PulmoError
from pulmo.logs import get_logger
from pulmo.serving import bodies, plain, problems
from pulmo.serving.access import Address, Guard
from pulmo.serving.connection import Connection
from pulmo.serving.limits import Intake, too_slow
from pulmo.serving.models import Model, Present
from pulmo.serving.plain import Plain
from pulmo.serving.pool import Pool, Tell
from pulmo.serving.together import Steps
from pulmo.serving.watching import HEADERS, UNFORESEEN, Watch, request_id

ROUTE = "/predict"

_ANSWERED = b"".join(
    b"%b: %b\r\n" % pair for pair in ((b"content-type", b"application/json"), *HEADERS)
)

logger = get_logger(__name__)


class Lane:
    """What stands between a connection and an answer: for one server.

    `work` makes JSON of the model, a body and its type.
    """

    def __init__(
        self,
        watch: Watch,
        guard: Guard,
        present: Present,
        intake: Intake,
        pool: Pool,
        work: Callable[[Model, bytes, str], Steps[bytes]],
    ) -> None:
        self.watch, self.intake, self.pool = watch, intake, pool
        self._guard, self._present, self._work = guard, present, work

    def takes(self, asked: Plain, client: Address) -> bool:
        """Whether a request may take the lane; what would be refused goes the long way."""
        headers = asked.headers
        if asked.path != ROUTE.encode() or b"origin" in headers or not self._present.ready:
            return False
        if not self.watch.is_meant(ROUTE, headers[b"host"]):
            return False
        try:
            encoding = headers.get(b"content-encoding", b"").decode("latin-1")
            bodies.require_readable(content_type(asked), encoding)
            self._guard.admit(headers, client, "predict")
        except PulmoError:
            return False
        return True

    def ask(self, asked: Plain, body: bytes, tell: Tell) -> None:
        """Have a body answered, and `tell` the loop. Raises BusyError."""
        model, kind = self._present.model, content_type(asked)
        self.pool.submit(lambda: self._work(model, body, kind), tell)


def content_type(asked: Plain) -> str:
    """The type of a request's body."""
    return asked.headers.get(b"content-type", b"").decode("latin-1")


class Express(Connection):
    """Takes plain requests past the parser, the application and its tasks, which take more time
    than all else that is done for an answer.

    Work that there is no room for is refused here for even less: a server that is asked ten times
    what it can do has then time left to do it.
    """

    lane: Lane
    _asked: Plain | None = None  # a request that is received or answered
    _id = ""
    _since = 0.0
    _body: list[bytes]
    _missing = 0  # bytes still to come of its body
    _behind = b""  # what came after it
    _unwanted = 0  # bytes still to come of a body that nobody will read
    _closing = False  # whether the connection ends with that body
    _idle_since = 0.0

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        while data and not self.transport.is_closing():
            if self._unwanted:
                data = self._thrown_away(data)
            elif self._asked is not None:
                data = self._gathered(data)
            elif self._idle and (asked := plain.look(data, self.bounds.body_bytes)) is not None:
                if not self._begun_with(asked, alone=len(data) == asked.start):
                    break
                data = data[asked.start :]
            else:
                break
        if data and not self.transport.is_closing():
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._asked is not None and self._missing:
            self._fail(DataError("the client went away before its body was complete"))
        super().connection_lost(exc)

    def _begun_with(self, asked: Plain, *, alone: bool) -> bool:
        """Whether a request is refused for want of room, or taken; `alone` is its head."""
        sheds = self.lane.pool.full and not self.watch.draining.begun
        if sheds and b"origin" not in asked.headers:  # a page would not be shown what is told here
            self._turn_down(asked)
            return True
        if self.flow.write_paused or not self.lane.takes(asked, self.client):
            return False
        self._asked, self._id, self._since = asked, request_id(), time.perf_counter()
        self._body, self._missing = [], asked.length
        self._stop_expecting()
        if not self._missing:
            self._ask()
        elif alone:
            self._expect()
        return True

    def _turn_down(self, asked: Plain) -> None:
        if self.flow.write_paused:  # it asks, and does not read
            self.transport.abort()
            return
        self.lane.pool.shed += 1
        self.watch.figures.refused(503)
        self.transport.write(plain.refusal())
        self._unwanted = asked.length
        self._await_next()

    def _gathered(self, data: bytes) -> bytes:
        """What is left of `data` after a body; what comes behind it waits for the answer."""
        if not self._missing:
            self._behind += data
            self.transport.pause_reading()
            return b""
        piece, rest = data[: self._missing], data[self._missing :]
        self._body.append(piece)
        self._missing -= len(piece)
        try:
            self.lane.intake.hold(len(piece))
        except BusyError as error:
            self._fail(error)
            return rest
        if not self._missing:
            self._ask()
        elif self._late is None:
            self._expect()
        else:
            self._took(len(piece))
        return rest

    def _ask(self) -> None:
        assert self._asked is not None
        self._stop_expecting()
        if len(self._body) != 1:
            self._body = [b"".join(self._body)]
        try:
            self.lane.ask(self._asked, self._body[0], self._told)
        except BusyError as error:
            self._fail(error)

    def _told(self, answer: object, error: Exception | None) -> None:
        """Answer, and go on with what came meanwhile."""
        if error is not None:
            self._fail(error)
        else:
            assert isinstance(answer, bytes)
            begin = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            self._end(200, begin % (len(answer), self._id.encode()) + _ANSWERED, answer)

    def _fail(self, error: Exception, *, close: bool = False) -> None:
        """Tell what went wrong; what is still to come of the body is thrown away."""
        if isinstance(error, PulmoError):
            told = problems.told(error, self._id, unread=False)
        else:
            logger.error("request %s failed", self._id, exc_info=error)
            told = problems.answer(500, UNFORESEEN, self._id, {}, unread=False)
        self._unwanted, self._missing, self._closing = self._missing, 0, self._closing or close
        length = b"content-length"
        headers = [pair for pair in told.raw_headers if pair[0] != length]
        headers += [(b"x-request-id", self._id.encode()), *HEADERS]
        head = plain.head(told.status_code, len(told.body), headers)
        self._end(told.status_code, head[:-2], bytes(told.body))

    def _end(self, status: int, head: bytes, body: bytes) -> None:
        """Send an answer, whose head is without its last line, and wait for what comes next."""
        self._closing = self._closing or self.watch.draining.begun
        self.lane.intake.release(sum(map(len, self._body)))
        self._asked, self._body = None, []
        if not self.transport.is_closing():
            more = [b"%b: %b\r\n" % pair for pair in self.server_state.default_headers]
            more += [b"connection: close\r\n"] if self._closing else []
            self.transport.write(b"".join((head, *more, b"\r\n", body)))
            self.server_state.total_requests += 1
            self._await_next()
        self.watch.ended(self._id, "POST", ROUTE, status, self._since)
        if self._behind and not self.transport.is_closing():
            behind, self._behind = self._behind, b""
            self.transport.resume_reading()
            self.data_received(behind)

    def _thrown_away(self, data: bytes) -> bytes:
        """What is left of `data` after the rest of a body that nobody reads."""
        rest = data[self._unwanted :]
        self._took(len(data) - len(rest))
        self._unwanted = max(self._unwanted - len(data), 0)
        self._await_next()
        return rest

    def _await_next(self) -> None:
        """Wait for the rest of a body that nobody reads, or for the next request."""
        if self._unwanted:
            if self._late is None:
                self._expect()
            return
        self._stop_expecting()
        if self._closing:
            self.transport.close()
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:  # else it will find that it is early
            self._look_again(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle for long."""
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._asked is not None or self._unwanted:
            return
        if left > 0:
            self._look_again(left)
        else:
            super().timeout_keep_alive_handler()

    def _margin(self) -> float:
        if self._asked is not None or self._closing:  # nobody else says what is late
            return 0.0
        return super()._margin()

    def _cut(self) -> None:
        if self._asked is not None:
            self._late = None
            self._fail(too_slow(sum(map(len, self._body))), close=True)
            self.loop.call_later(problems.LINGER_SECONDS, self.transport.close)
        elif self._unwanted:
            self.transport.close()
        else:
            super()._cut()

    def _end_when_idle(self) -> None:
        if self._asked is not None or self._unwanted:
            self._closing = True  # with the answer, or once nothing more comes that would reset it
        else:
            super()._end_when_idle()
