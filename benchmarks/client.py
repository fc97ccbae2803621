"""A lean HTTP client that loads a server: a process of its own, told by JSON lines what to do.

`closed` keeps a number of connections busy and so finds the peak. `open` sends at the times of a
Poisson process whatever the server does, and counts latency from the time a request was meant to
be sent (so that a stalled server cannot hide the requests it kept from being sent).
"""

import asyncio
import base64
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Send = Callable[[bytes], None]
TIMEOUT_S = 30.0
CONNECTIONS = 512  # an open loop never has more


@dataclass
class Load:
    """What one window saw: statuses by count, seconds of every request that was answered 200."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    outside: int = 0  # requests that were answered before or after what counts
    wall_s: float = 0.0
    cpu_s: float = 0.0
    late_s: float = 0.0  # the most that a request was sent after its time


def request(picture: bytes, transport: str, path: str = "/predict") -> bytes:
    """One HTTP request that sends a JPEG picture as `raw`, `multipart` or `base64`."""
    kind, body = "image/jpeg", picture
    if transport == "multipart":
        kind = "multipart/form-data; boundary=pulmo-benchmark"
        head = b'Content-Disposition: form-data; name="file"; filename="a.jpeg"'
        lines = (b"--pulmo-benchmark", head, b"Content-Type: image/jpeg", b"", picture)
        body = b"\r\n".join((*lines, b"--pulmo-benchmark--", b""))
    elif transport == "base64":
        kind = "application/json"
        body = json.dumps({"image": base64.b64encode(picture).decode()}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection, kept alive, with one request at a time on its way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._head, self._left, self._closing = b"", -1, False
        self._status, self._body = "", b""
        self._answer: asyncio.Future[str] | None = None
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready to ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, data: bytes) -> "asyncio.Future[str]":
        """Send a request; the future is its status, or `lost`."""
        assert self._transport is not None
        self._head, self._left, self._body = b"", -1, b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Take in a piece of an answer."""
        if self._left < 0:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            told = head.lower()
            self._status = head[9:12].decode()
            _, _, length = told.partition(b"content-length:")
            self._left = int(length.split(b"\r\n", 1)[0])
            self._closing = b"connection: close" in told
        self._left -= len(data)
        self._body += data
        if self._left <= 0:
            self.body = self._body
            if self._closing:
                self.close()
            self._tell(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that no answer comes."""
        self._transport = None
        self._tell("lost")

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _tell(self, status: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


async def connect(port: int) -> Connection:
    """A new connection to this machine's `port`."""
    _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return made


async def closed(
    port: int, requests: list[bytes], seconds: float, clients: int, lead: float
) -> Load:
    """`clients` connections, each asking again as soon as it is answered.

    What counts lies between two answers: the last one before the load has lasted `lead` seconds,
    and the last one of the `seconds` from then on. A server is in the midst of its work at both,
    and one that tells several answers at once gains or loses none of them.
    """
    load, begin = Load(), time.perf_counter() + lead
    end, told = begin + seconds, list[tuple[float, float]]()

    async def one(index: int) -> None:
        connection = await connect(port)
        while (begun := time.perf_counter()) < end:
            if not connection.usable:
                connection = await connect(port)
            status = await connection.ask(requests[index % len(requests)])
            index += clients
            if status == "200":
                told.append((time.perf_counter(), begun))
            else:
                load.statuses[status] += 1
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(one(index) for index in range(clients)))
    since = max((now for now, _ in told if now < begin), default=started)
    until = max((now for now, _ in told if now < end), default=end)
    load.seconds = [now - begun for now, begun in told if since < now <= until]
    load.statuses["200"] = len(load.seconds)
    load.outside = len(told) - len(load.seconds)
    load.wall_s = max(until - since, 1e-9) if load.seconds else seconds
    return load


async def opened(port: int, requests: list[bytes], seconds: float, rate: float, seed: int) -> Load:
    """Requests at the times of a Poisson process of `rate` a second, drawn from `seed`."""
    load, draw = Load(), random.Random(seed)
    free: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    begun = due = time.perf_counter() + 0.05

    async def one(data: bytes, due: float) -> None:
        while free and not free[-1].usable:
            free.pop()
        try:
            connection = free.pop() if free else await connect(port)
            load.late_s = max(load.late_s, time.perf_counter() - due)
            async with asyncio.timeout(TIMEOUT_S):
                status = await connection.ask(data)
        except (OSError, TimeoutError) as error:
            load.statuses[type(error).__name__] += 1
            return
        load.statuses[status] += 1
        load.seconds += [time.perf_counter() - due] if status == "200" else []
        free.append(connection)

    index = 0
    while due < begun + seconds:
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        if len(tasks) < CONNECTIONS:
            task = asyncio.create_task(one(requests[index % len(requests)], due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            load.statuses["unsent"] += 1
        index += 1
        due += -math.log(1 - draw.random()) / rate
    if tasks:
        await asyncio.wait(tasks)
    for connection in free:
        connection.close()
    load.wall_s = max(time.perf_counter() - begun, seconds)
    return load


async def ask_once(port: int, requests: list[bytes]) -> list[Any]:
    """The answers to some requests, one after the other, as the JSON they are."""
    connection, told = await connect(port), []
    for data in requests:
        if not connection.usable:
            connection = await connect(port)
        status = await connection.ask(data)
        assert status == "200", f"{status}: {connection.body!r}"
        told.append(json.loads(connection.body))
    connection.close()
    return told


def obey(order: dict[str, Any]) -> Any:
    """Do what one line asks for."""
    pictures = [Path(path).read_bytes() for path in order["pictures"]]
    where = order.get("path", "/predict")
    requests = [request(picture, order.get("transport", "raw"), where) for picture in pictures]
    port = order["port"]
    if order["do"] == "ask":
        return asyncio.run(ask_once(port, requests))
    begun = time.process_time()
    if order["do"] == "closed":
        load = asyncio.run(
            closed(port, requests, order["seconds"], order["clients"], order["lead"])
        )
    else:
        load = asyncio.run(opened(port, requests, order["seconds"], order["rate"], order["seed"]))
    load.cpu_s = time.process_time() - begun
    return vars(load)


def main() -> None:
    """Obey every line of standard input; stay on the core that the first argument names."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
