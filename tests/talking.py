"""A server in this process, and what it says to bytes."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from pulmo.config.settings import Settings
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.server import listen, make_server

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
QUICK = Limits(receive_s=0.2, slowest_rate=2**20, linger_s=0.0, finish_s=5)


@contextmanager
def running(present: Present, limits: Limits) -> Iterator[tuple[uvicorn.Server, int]]:
    server = make_server(create_app(Settings(), present, limits), limits)
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
