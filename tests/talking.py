"""A server in this process, and what it says to bytes."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from pulmo.config.settings import Settings
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.pool import Pool
from pulmo.serving.server import listen, make_server

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
QUICK = Limits(receive_s=0.2, slowest_rate=2**20, linger_s=0.0, finish_s=5)


@contextmanager
def running(
    present: Present, limits: Limits, **settings: Any
) -> Iterator[tuple[uvicorn.Server, int]]:
    server = make_server(create_app(Settings(**settings), present, limits), limits)
    taken = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield server, taken.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def talk(port: int, *pieces: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for piece in pieces:
            client.sendall(piece)
        return everything(client)


def everything(client: socket.socket) -> bytes:
    """What is still said, until the connection is closed or reset."""
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            told += piece
    return told


@contextmanager
def held_back(pool: Pool) -> Iterator[threading.Event]:
    """What a pool does waits for an event, at the latest for the end of the block."""
    go_on, do = threading.Event(), pool._do

    def wait(works: Sequence[Any]) -> Any:
        go_on.wait(20)
        return do(works)

    pool._do = wait
    try:
        yield go_on
    finally:
        go_on.set()
        pool._do = do


def wait_for(sign: Callable[[], bool]) -> None:
    """Wait for a sign, which must come."""
    end = time.monotonic() + 20
    while not sign():
        assert time.monotonic() < end
        time.sleep(0.01)
