"""Threads that work for requests, with a bounded queue before them."""

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pulmo.errors import BusyError, PulmoError
from pulmo.logs import get_logger
from pulmo.serving.limits import Limits

T = TypeVar("T")
Outcome = tuple[T | None, Exception | None]  # what came of a work, or what went wrong
Tell = Callable[[Any, Exception | None], None]  # who is told of an outcome
Do = Callable[[Sequence[Callable[[], Any]]], Sequence[Outcome[Any]]]

TOGETHER = 4  # works that a thread takes at once

logger = get_logger(__name__)


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def one_by_one(works: Sequence[Callable[[], T]]) -> list[Outcome[T]]:
    """The outcome of each work, done alone."""
    return [_outcome(work) for work in works]


def _outcome(work: Callable[[], T]) -> Outcome[T]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        return None, bare(error)


def bare(error: Exception) -> Exception:
    """An error; one of ours without the frames that it came through, as they hold what was asked
    until the garbage collector looks.
    """
    link: BaseException | None = error if isinstance(error, PulmoError) else None
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


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
        job = self.submit(work, partial(_settle, future))
        try:
            return await future
        finally:
            job.forget()
            del future, work  # an error would hold them, and they it

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
        told = f"no answer was ready within {self._limits.deadline_s:g} s: ask again in a moment"
        try:
            while self._due and (job := self._due[0]).due <= job.loop.time():
                self._due.popleft()
                job.end(None, BusyError(told))
        finally:  # only now: whoever is told may ask again
            self._looking = False
            if self._due:
                self._look_at(self._due[0])

    def _work(self) -> None:
        """Do one job after another until None comes. One wake of the loop tells all that is done,
        and that there is room.
        """
        while jobs := self._next():
            works = [job.work for job in jobs]  # those that nobody waits for are None
            outcomes = iter(self._outcomes([work for work in works if work is not None]))
            told = [(None, None) if work is None else next(outcomes) for work in works]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                jobs[0].loop.call_soon_threadsafe(self._tell, jobs, told)
            del jobs, works, outcomes, told  # nothing of a request is kept while the thread waits

    def _outcomes(self, works: Sequence[Callable[[], Any]]) -> Sequence[Outcome[Any]]:
        """What `do` gives; whatever it raises must not end the thread."""
        try:
            return self._do(works)
        except BaseException as error:
            logger.exception("the work of %d requests failed", len(works))
            failed = RuntimeError(f"{type(error).__name__}: {error}")
            return [(None, failed)] * len(works)

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
