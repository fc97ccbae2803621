import socket
import sys
from collections.abc import Callable

import pytest
from talking import HEAD, everything, running

from pulmo.errors import ConfigError
from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.server import listen, turn_away


def test_the_end_waits_for_a_request_that_has_begun(
    present: Present, grey_png: Callable[[int], bytes]
) -> None:
    body = grey_png(5)
    limits = Limits(linger_s=0.0)
    with running(present, limits) as (server, port):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        idle = socket.create_connection(("127.0.0.1", port), timeout=20)
        with client, idle:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:9])
            server.should_exit = True
            assert everything(idle) == b""  # by now connections are being closed
            client.sendall(body[9:])
            told = everything(client)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in told.lower()


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port} cannot be served"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be served"):
        listen("no host", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")
def test_who_is_connected_is_heard_and_newcomers_are_not() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early:
            early.sendall(b"asked ")
            turn_away(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)
            taken, _ = listener.accept()
            with taken:
                early.sendall(b"twice")
                early.shutdown(socket.SHUT_WR)
                assert everything(taken) == b"asked twice"
