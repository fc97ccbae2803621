"""How much a server takes on: its bounds, and bodies that are read within them."""

import asyncio
from dataclasses import dataclass

from fastapi import Request

from pulmo.core.preprocess import MAX_BYTES
from pulmo.errors import BusyError, DataError, TooLargeError, TooSlowError


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    A request must arrive within `receive_s` seconds plus one for every `slowest_rate` bytes, and
    may not stop coming for longer than `receive_s`. All bodies together take at most
    `memory_bytes`. `workers` requests are answered at a time and `waiting` more wait, for
    `deadline_s` seconds at most. After SIGTERM requests are taken for `linger_s` seconds more, and
    what was taken is finished within `finish_s`.
    """

    body_bytes: int = MAX_BYTES
    memory_bytes: int = 4 * MAX_BYTES
    receive_s: float = 8.0
    slowest_rate: int = 64 * 1024
    workers: int = 1
    waiting: int = 32
    deadline_s: float = 10.0
    linger_s: float = 1.0
    finish_s: int = 12

    def allowed(self, size: int) -> float:
        """The seconds that a client may take to read so many bytes."""
        return self.receive_s + size / self.slowest_rate

    def due(self, due: float, now: float, received: int) -> float:
        """When more of a request must have come that was `due`, and of which a piece has come now.

        Who was fast gains no more than `receive_s` seconds by that: memory is held meanwhile.
        """
        return min(due + received / self.slowest_rate, now + self.receive_s)


class Intake:
    """Reads bodies within limits of size, time and memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    def body(self, request: Request) -> "_Body":
        """The body of a request, counted as held until the block ends.

        Entering it raises TooLargeError, before a byte is read where the length is told,
        TooSlowError, BusyError while other bodies fill the memory, DataError where the client went
        away.
        """
        return _Body(self, request)

    def hold(self, size: int) -> None:
        """Count bytes as held, until `release`. Raises BusyError where memory is full."""
        self._held += size
        if self._held > self._limits.memory_bytes:
            raise BusyError("other requests fill the memory: ask again in a moment")

    def release(self, size: int) -> None:
        """Count bytes as held no longer, also those whose `hold` failed."""
        self._held -= size

    async def read(self, request: Request, chunks: list[bytes]) -> None:
        """Fill `chunks`; each is counted as held from its arrival until `release`."""
        self._check_told(request.headers.get("content-length"))
        loop = asyncio.get_running_loop()
        due = loop.time() + self._limits.receive_s
        size, more = 0, True
        try:
            async with asyncio.timeout_at(due) as deadline:
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise DataError("the client went away before its body was complete")
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    chunks.append(chunk)
                    size += len(chunk)
                    self.hold(len(chunk))
                    self._check_size(size)
                    if more:
                        due = self._limits.due(due, loop.time(), len(chunk))
                        deadline.reschedule(due)
        except TimeoutError as error:
            raise too_slow(size) from error

    def _check_told(self, length: str | None) -> None:
        if length is not None and length.isascii() and length.isdigit():
            self._check_size(int(length))
            self.hold(0)

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise TooLargeError(f"a body may have {self._limits.body_bytes:,} bytes at most")


def too_slow(size: int) -> TooSlowError:
    """What a client is told of whose body `size` bytes came in time."""
    return TooSlowError(f"only {size:,} bytes of the body came in time")


class _Body:
    """A body while it is held: a class, as a generator's context takes twice the time."""

    def __init__(self, intake: Intake, request: Request) -> None:
        self._intake, self._request = intake, request
        self._chunks: list[bytes] = []

    async def __aenter__(self) -> bytes:
        try:
            await self._intake.read(self._request, self._chunks)
            self._request.state.unread = False
            if len(self._chunks) != 1:  # the pieces are let go: beside the body they take as much
                self._chunks = [b"".join(self._chunks)]
            return self._chunks[0]
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._intake.release(sum(map(len, self._chunks)))
