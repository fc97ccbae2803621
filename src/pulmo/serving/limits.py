"""How much a server takes on: bytes, seconds and work, each with its bound."""

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from fastapi import Request

from pulmo.core.preprocess import MAX_BYTES
from pulmo.errors import BusyError, DataError, TooLargeError, TooSlowError

T = TypeVar("T")
Outcome = tuple[T | None, Exception | None]  # what came of a work, or what went wrong
Tell = Callable[[Any, Exception | None], None]  # what came of a work, or what went wrong
Do = Callable[[Sequence[Callable[[], Any]]], Sequence[Outcome[Any]]]

TOGETHER = 4  # works that a thread takes at once


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
        begun = asyncio.get_running_loop().time()
        size, more = 0, True
        try:
            async with asyncio.timeout_at(begun + self._limits.allowed(0)) as deadline:
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
                        deadline.reschedule(begun + self._limits.allowed(size))
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
            return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._intake.release(sum(map(len, self._chunks)))


def one_by_one(works: Sequence[Callable[[], T]]) -> list[Outcome[T]]:
    """The outcome of each work, done alone."""
    return [_outcome(work) for work in works]


def _outcome(work: Callable[[], T]) -> Outcome[T]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        return None, error


class Pool:
    """Threads for decoding and inference, with a bounded queue before them.

    A thread takes several works at once where more wait than there are threads, and `do` gives
    the outcome of each.
    """

    def __init__(self, limits: Limits, do: Do = one_by_one) -> None:
        self._limits, self._do = limits, do
        self._room = limits.workers + limits.waiting
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._due: deque[Job] = deque()
        self._looking = False  # whether a timer will look at what is due
        self.taken = 0  # requests that run or wait
        self.shed = 0  # requests refused before anything of them was read

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return self.taken >= self._room

    async def run(self, work: Callable[[], Any]) -> Any:
        """What comes of `work` in a thread. Raises what it raises, and as `submit` tells.

        Work that nobody waits for any more is not begun.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def tell(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        job = self.submit(work, tell)
        try:
            return await future
        finally:
            job.forget()

    def submit(self, work: Callable[[], Any], tell: Tell) -> "Job":
        """Do `work` in a thread, and `tell` the running loop once what came of it.

        Raises BusyError when full; past the deadline that is told. Work that has begun keeps its
        place until it ends, also where nobody waits any more.
        """
        self.require_room()
        loop = asyncio.get_running_loop()
        if not self._threads:
            self._start()
        job = Job(loop, work, tell, loop.time() + self._limits.deadline_s)
        self.taken += 1
        self._queue.put(job)
        if not math.isinf(job.due):
            self._due.append(job)  # each is due after the one before: one timer does for all
            self._look_at(job)
        return job

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
            thread = threading.Thread(target=self._work, name=f"answer_{index}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def _look_at(self, job: "Job") -> None:
        if not self._looking:
            self._looking = True
            job.loop.call_at(job.due, self._expire)

    def _expire(self) -> None:
        """Tell those that have waited too long, and look again when the next one may have."""
        self._looking = False
        told = f"no answer was ready within {self._limits.deadline_s:g} s: ask again in a moment"
        while self._due and (job := self._due[0]).due <= job.loop.time():
            self._due.popleft()
            job.end(None, BusyError(told))
        if self._due:
            self._look_at(self._due[0])

    def _work(self) -> None:
        """Do one job after another until None comes. One wake of the loop tells all that is done,
        and that there is room.
        """
        while jobs := self._next():
            works = [job.work for job in jobs]  # those that nobody waits for are None
            outcomes = iter(self._do([work for work in works if work is not None]))
            told = [(None, None) if work is None else next(outcomes) for work in works]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                jobs[0].loop.call_soon_threadsafe(self._tell, jobs, told)
            del jobs, works, outcomes, told  # nothing of a request is kept while the thread waits

    def _next(self) -> "list[Job]":
        """The jobs to do next, at most a thread's share of what waits; none at the end."""
        first = self._queue.get()
        if first is None:
            return []
        jobs = [first]
        for _ in range(min(self._queue.qsize() // self._limits.workers, TOGETHER - 1)):
            try:
                job = self._queue.get_nowait()
            except Empty:  # another thread was faster
                break
            if job is None:
                self._queue.put(None)
                break
            jobs.append(job)
        return jobs

    def _tell(self, jobs: "Sequence[Job]", told: Sequence[Outcome[Any]]) -> None:
        self.taken -= len(jobs)
        for job, (result, error) in zip(jobs, told, strict=True):
            job.end(result, error)
        while self._due and self._due[0].work is None:
            self._due.popleft()


class Job:
    """Work on its way; `work` is None once nobody waits for what comes of it."""

    __slots__ = ("due", "loop", "tell", "work")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any], tell: Tell, due: float
    ) -> None:
        self.loop, self.due = loop, due
        self.work: Callable[[], Any] | None = work
        self.tell: Tell | None = tell

    def end(self, result: Any, error: Exception | None) -> None:
        """Tell whoever still waits."""
        tell = self.tell
        self.forget()
        if tell is not None:
            tell(result, error)

    def forget(self) -> None:
        """Nobody waits any more: work that has not begun never will, and is let go."""
        self.work = self.tell = None
