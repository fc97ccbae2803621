"""The server process: where it listens, and an end that loses nothing."""

import asyncio
import contextlib
import ctypes
import gc
import socket
import struct
import sys

import uvicorn
from fastapi import FastAPI

from pulmo.errors import ConfigError
from pulmo.logs import get_logger
from pulmo.serving.express import Express
from pulmo.serving.limits import Limits
from pulmo.serving.watching import Draining

IDLE_SECONDS = 5  # how long a connection without a request is kept
BACKLOG = 2048  # connections that wait to be taken
UNREAD_SECONDS = 20  # how long a client may take in nothing of its answer
_SETTLE_SECONDS = 0.1  # for connections that are made and not yet taken
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it

logger = get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{host} port {port} cannot be served: {reason}") from error
    if sys.platform == "linux":  # what is accepted inherits it; it ends also closed connections
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_SECONDS)
    return listener


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """A server of `app`, made by `create_app` with the same limits.

    Its `run` takes the sockets of `listen` and serves until a signal ends it.
    """

    class Connection(Express):
        bounds = limits
        lane = app.state.lane
        watch = app.state.lane.watch

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
    return _Server(config, limits, app.state.lane.watch.draining)


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
