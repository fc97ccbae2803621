"""The server process: connections that are cut when they dawdle, and an end that loses nothing."""

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import uuid

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pulmo.core.wire import PROBLEM_TYPE
from pulmo.errors import ConfigError
from pulmo.logs import get_logger
from pulmo.serving import problems
from pulmo.serving.limits import Limits
from pulmo.serving.watching import Draining

IDLE_SECONDS = 5  # how long a connection without a request is kept
HEAD_BYTES = 16 * 1024
BACKLOG = 2048  # connections that wait to be taken
_MARGIN_SECONDS = 3.0  # for the application to say itself what is late
_SETTLE_SECONDS = 0.1  # for connections that are made and not yet taken
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
_GRACE_SECONDS = 0.5  # for a request that was sent just before the server ended

logger = get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{host} port {port} cannot be served: {reason}") from error


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """A server of `app`, made by `create_app` with the same limits.

    Its `run` takes the sockets of `listen` and serves until a signal ends it.
    """

    class Connection(_Connection):
        bounds = limits

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=limits.finish_s,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return _Server(config, limits, app.state.draining)


def turn_away(listener: socket.socket) -> None:
    """Let a listening socket take nobody new, where the system can (Linux, packet filters).

    Closing it resets connections that are made and not yet taken, their requests with them; so
    first whoever still knocks (SYN, RFC 9293, 3.1) is not heard, and asks again when it is closed.
    """
    steps = (
        (0x30, 0, 0, 13),  # load the byte of flags
        (0x45, 0, 1, 0x02),  # SYN? go on, else skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            program = struct.pack("HP", len(steps), ctypes.addressof(code))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


class _Server(uvicorn.Server):
    """Ends in three steps: not ready but serving, no new connections, done."""

    def __init__(self, config: uvicorn.Config, limits: Limits, draining: Draining) -> None:
        super().__init__(config)
        self._limits, self._draining = limits, draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve a little longer while clients learn of the end, then finish what was taken."""
        self._draining.begun = True
        await asyncio.sleep(self._limits.linger_s)
        for listener in sockets or []:
            turn_away(listener)
        await asyncio.sleep(_SETTLE_SECONDS)
        await super().shutdown(sockets)


class _Connection(H11Protocol):
    """HTTP/1.1 whose requests must arrive in time, and whose refusals are problems."""

    bounds: Limits
    _late: asyncio.TimerHandle | None = None
    _begun = 0.0
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            if self._late is None:
                self._expect()
        else:
            self._stop_expecting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_expecting()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End when idle; what a client has sent at this very moment is still answered."""
        self.loop.call_later(_GRACE_SECONDS, self._end_when_idle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _end_when_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _expect(self) -> None:
        self._begun, self._received = self.loop.time(), 0
        self._late = self.loop.call_later(self._allowed(), self._check)

    def _allowed(self) -> float:
        return self.bounds.allowed(self._received) + _MARGIN_SECONDS

    def _check(self) -> None:
        """Cut the connection unless its request has come so far as it should."""
        left = self._begun + self._allowed() - self.loop.time()
        if left > 0:
            self._late = self.loop.call_later(left, self._check)
        elif self.conn.their_state is h11.IDLE:
            self._refuse(408, "the request did not arrive in time")
        else:
            self.transport.close()

    def _stop_expecting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, detail: str) -> None:
        body = problems.document(status, detail, str(uuid.uuid4()))
        headers = [
            (b"content-type", PROBLEM_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is on its way already
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
