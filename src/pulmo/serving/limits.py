"""How much a server takes on: bytes, seconds and work, each with its bound."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from pulmo.core.preprocess import MAX_BYTES
from pulmo.errors import BusyError, DataError, TooLargeError, TooSlowError

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    A body must arrive within `receive_s` seconds plus one for every `slowest_rate` bytes. All
    bodies together take at most `memory_bytes`. `workers` requests are answered at a time and
    `waiting` more wait, for `deadline_s` seconds at most. After SIGTERM requests are taken for
    `linger_s` seconds more, and what was taken is finished within `finish_s`.
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

    def allowed(self, received: int) -> float:
        """The seconds that a request of which `received` bytes have come may have taken."""
        return self.receive_s + received / self.slowest_rate


class Intake:
    """Reads bodies within limits of size, time and memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, counted as held until the block ends.

        Raises TooLargeError, before a byte is read where the length is told, TooSlowError,
        BusyError while other bodies fill the memory, DataError where the client went away.
        """
        self._check_told(request.headers.get("content-length"))
        chunks: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            try:
                async with asyncio.timeout_at(begun + self._limits.allowed(0)) as deadline:
                    async for chunk in request.stream():
                        size += len(chunk)
                        self._held += len(chunk)
                        self._check_read(size)
                        chunks.append(chunk)
                        deadline.reschedule(begun + self._limits.allowed(size))
            except TimeoutError as error:
                raise TooSlowError(f"only {size:,} bytes of the body came in time") from error
            except ClientDisconnect as error:
                raise DataError("the client went away before its body was complete") from error
            request.state.unread = False
            yield b"".join(chunks)
        finally:
            self._held -= size

    def _check_told(self, length: str | None) -> None:
        if length is not None and length.isascii() and length.isdigit():
            self._check_read(int(length))

    def _check_read(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise TooLargeError(f"a body may have {self._limits.body_bytes:,} bytes at most")
        if self._held > self._limits.memory_bytes:
            raise BusyError("other requests fill the memory: ask again in a moment")


class Pool:
    """Threads for decoding and inference, with a bounded queue before them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = limits.workers + limits.waiting
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.taken = 0  # requests that run or wait
        self.shed = 0  # requests refused before anything of them was read

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return self.taken >= self._room

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, from a thread. Raises BusyError when full or after the deadline.

        Work that has begun keeps its place until it ends, also where nobody waits any more; work
        that nobody waits for is not begun.
        """
        self.require_room()
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.taken += 1
        self._queue.put(_Job(loop, future, work, self._free))
        late = loop.call_later(self._limits.deadline_s, self._expire, future)
        try:
            return await future
        finally:
            late.cancel()

    def require_room(self) -> None:
        """Raise BusyError where one more request would be refused."""
        if self.full:
            raise BusyError("too many requests are waiting: ask again in a moment")

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        for _ in self._threads:
            self._queue.put(None)

    def _start(self) -> None:
        for index in range(self._limits.workers):
            thread = threading.Thread(target=_work, args=(self._queue,), name=f"answer_{index}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def _expire(self, future: "asyncio.Future[T]") -> None:
        if not future.done():
            told = (
                f"no answer was ready within {self._limits.deadline_s:g} s: ask again in a moment"
            )
            future.set_exception(BusyError(told))

    def _free(self) -> None:
        self.taken -= 1


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    work: Callable[[], Any]
    free: Callable[[], None]

    def told(self, result: Any, error: Exception | None) -> None:
        """End the job, in its loop."""
        self.free()
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def _work(queue: "SimpleQueue[_Job | None]") -> None:
    """Do one job after another until None comes. One wake of the loop tells result and room."""
    while (job := queue.get()) is not None:
        result, error = None, None
        if not job.future.done():
            try:
                result = job.work()
            except Exception as fault:  # noqa: BLE001 - whoever waits is told
                error = fault
        with contextlib.suppress(RuntimeError):  # the loop has ended
            job.loop.call_soon_threadsafe(job.told, result, error)
        del job, result, error  # nothing of a request is kept while the thread waits
