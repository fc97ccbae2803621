"""The server process: connections that are cut when they dawdle, and an end that loses nothing."""

import asyncio
import contextlib
import ctypes
import gc
import socket
import struct
import sys
import uuid

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pulmo.errors import ConfigError
from pulmo.logs import get_logger
from pulmo.serving import problems, shed
from pulmo.serving.limits import Limits, Pool
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
        pool = app.state.pool
        draining = app.state.draining

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
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again costs requests

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve a little longer while clients learn of the end, then finish what was taken."""
        self._draining.begun = True
        await asyncio.sleep(self._limits.linger_s)
        for listener in sockets or []:
            turn_away(listener)
        await asyncio.sleep(_SETTLE_SECONDS)
        await super().shutdown(sockets)


class _Connection(HttpToolsProtocol):
    """HTTP/1.1 whose requests must arrive in time, and whose refusals are problems.

    Work that there is no room for is refused here, for a twentieth of what a route costs: a server
    that is asked ten times what it can do has then time left to do it.
    """

    bounds: Limits
    pool: Pool
    draining: Draining
    _late: asyncio.TimerHandle | None = None
    _begun = 0.0
    _received = 0
    _whole = True  # whether no part of a request is still to come
    _in_body = False
    _unwanted = 0  # bytes still to come of a body that nobody will read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self._unwanted:
            data = self._thrown_away(data)
        if self._idle and self.pool.full and not self.draining.begun:
            data = self._turned_down(data)
        if not data:
            return
        self._whole = self._whole and not self._idle  # a byte more is the next request's first
        self._received += len(data)
        super().data_received(data)
        if self._whole:
            self._stop_expecting()
        elif self._late is None:
            self._expect()
        if not self._whole and not self._in_body and self._received > HEAD_BYTES:
            self._refuse(400, "the head of the request is too long")

    def on_headers_complete(self) -> None:
        """Answer, unless the head is too long; what is raised here ends in a refusal."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            raise ValueError("the head of the request is too long")
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that nothing more has to come."""
        self._in_body, self._whole = False, True
        super().on_message_complete()

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

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _idle(self) -> bool:
        """Whether the next byte begins a request."""
        return self._whole and not self._answering and not self._unwanted

    def _turned_down(self, data: bytes) -> bytes:
        """What is left of `data` after requests for work that there is no room for."""
        while data and not self._unwanted:
            refused = shed.look(data, self.bounds.body_bytes)
            if refused is None:
                return data
            self.pool.shed += 1
            self.transport.write(shed.refusal())
            self._unwanted = max(refused.length - len(data), 0)
            data = data[refused.length :]
            self._await_next()
        return data

    def _thrown_away(self, data: bytes) -> bytes:
        """What is left of `data` after the rest of a body that nobody reads."""
        rest = data[self._unwanted :]
        self._received += len(data) - len(rest)
        self._unwanted = max(self._unwanted - len(data), 0)
        self._await_next()
        return rest

    def _await_next(self) -> None:
        """Wait for the rest of a body that nobody reads, or for the next request."""
        self._unset_keepalive_if_required()
        if not self._unwanted:
            self._stop_expecting()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self._late is None:
            self._expect()

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
        elif self._in_body or self._unwanted:
            self.transport.close()
        else:
            self._refuse(408, "the request did not arrive in time")

    def _stop_expecting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, detail: str) -> None:
        if not self._answering:  # else an answer is on its way already
            body = problems.document(status, detail, str(uuid.uuid4()))
            self.transport.write(shed.head(status, len(body), b"connection: close\r\n") + body)
        self.transport.close()
