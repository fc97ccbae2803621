import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from pulmo.errors import BusyError, DataError
from pulmo.serving import together
from pulmo.serving.limits import Limits
from pulmo.serving.pool import TOGETHER, Outcome, Pool, one_by_one


@asynccontextmanager
async def blocked(pool: Pool, count: int = 1) -> AsyncIterator[list[Awaitable[Any]]]:
    """A pool whose first work does not end before the block does, with more waiting behind."""
    begun, go_on = threading.Event(), threading.Event()

    def first() -> int:
        begun.set()
        go_on.wait()
        return 0

    works: list[Callable[[], int]] = [first, *([lambda: 1] * (count - 1))]
    tasks = [asyncio.ensure_future(pool.run(work)) for work in works]
    await asyncio.to_thread(begun.wait)
    try:
        yield tasks
    finally:
        go_on.set()


def test_a_full_queue_refuses_and_recovers() -> None:
    async def run() -> None:
        pool = Pool(Limits(workers=1, waiting=1))
        async with blocked(pool, 2) as tasks:
            assert (pool.taken, pool.full) == (2, True)
            with pytest.raises(BusyError, match="too many"):
                await pool.run(lambda: 2)
        assert await asyncio.gather(*tasks) == [0, 1]
        while pool.taken:
            await asyncio.sleep(0)
        assert await pool.run(lambda: 3) == 3
        pool.close()

    asyncio.run(run())


def test_work_past_its_deadline_keeps_its_place_until_it_ends() -> None:
    async def run() -> None:
        pool = Pool(Limits(workers=1, waiting=0, deadline_s=0.01))
        async with blocked(pool) as tasks:
            with pytest.raises(BusyError, match="no answer was ready"):
                await tasks[0]
            assert pool.full
        while pool.taken:
            await asyncio.sleep(0)
        pool.close()

    asyncio.run(run())


def test_what_waits_past_the_deadline_never_begins() -> None:
    ran = []

    async def run() -> None:
        pool = Pool(Limits(workers=1, waiting=1, deadline_s=0.02))
        async with blocked(pool):
            with pytest.raises(BusyError):
                await pool.run(lambda: ran.append(1))
        while pool.taken:
            await asyncio.sleep(0)
        pool.close()

    asyncio.run(run())
    assert ran == []


def test_an_error_of_the_work_is_told() -> None:
    def fails() -> None:
        raise DataError("bad")

    async def run() -> None:
        pool = Pool(Limits())
        with pytest.raises(DataError, match="bad"):
            await pool.run(fails)
        pool.close()

    asyncio.run(run())


def test_a_thread_takes_several_of_the_works_that_wait() -> None:
    taken: list[int] = []

    def do(works: Sequence[Callable[[], Any]]) -> Sequence[Outcome[Any]]:
        taken.append(len(works))
        return one_by_one(works)

    async def run() -> list[Any]:
        pool = Pool(Limits(workers=1, waiting=8), do)
        async with blocked(pool, 8) as tasks:
            pass
        answers = await asyncio.gather(*tasks)
        pool.close()
        return answers

    assert asyncio.run(run()) == [0, *([1] * 7)]
    assert (sum(taken), max(taken)) == (8, TOGETHER)


def test_threads_share_what_waits() -> None:
    taken: list[int] = []
    both = threading.Barrier(2)

    def do(works: Sequence[Callable[[], Any]]) -> Sequence[Outcome[Any]]:
        taken.append(len(works))
        return one_by_one(works)

    async def run() -> None:
        pool = Pool(Limits(workers=2, waiting=8), do)
        await asyncio.gather(*(pool.run(both.wait) for _ in range(2)))
        pool.close()

    asyncio.run(run())  # one thread with both would wait for ever
    assert taken == [1, 1]


def test_asking_again_when_told_puts_off_nobody() -> None:
    told: list[str] = []

    async def run() -> None:
        pool = Pool(Limits(workers=1, waiting=9, deadline_s=0.1))

        def again(result: Any, error: Exception | None) -> None:
            told.append("first")
            pool.submit(lambda: 1, lambda result, error: told.append("again"))

        async with blocked(pool, 1):
            pool.submit(lambda: 1, again)
            await asyncio.sleep(0.05)
            pool.submit(lambda: 1, lambda result, error: told.append("second"))
            await asyncio.sleep(0.12)
            assert told == ["first", "second"]
        pool.close()

    asyncio.run(run())


@pytest.mark.parametrize("do", [one_by_one, together.answer])
def test_nothing_of_a_work_is_kept_once_it_has_failed(do: Any) -> None:
    class Body(bytes):
        pass

    def fails(body: Body) -> Any:
        try:
            raise KeyError(len(body))
        except KeyError as error:
            raise DataError(f"{len(body)} bytes") from error
        yield

    def work(body: Body) -> Any:
        return next(fails(body)) if do is one_by_one else fails(body)

    async def run(body: Body) -> None:
        pool = Pool(Limits(), do)
        for _ in range(5):
            with pytest.raises(DataError):
                await pool.run(partial(work, body))
        pool.close()

    body = Body(b"abc")
    before = sys.getrefcount(body)
    gc.collect()
    gc.disable()
    try:
        asyncio.run(run(body))
        assert sys.getrefcount(body) <= before + 1
    finally:
        gc.enable()


def test_a_panic_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Panic(BaseException):
        pass

    panics = [True]

    def do(works: Sequence[Callable[[], Any]]) -> Sequence[Outcome[Any]]:
        if panics.pop():
            raise Panic("oh")
        return one_by_one(works)

    async def run() -> int:
        pool = Pool(Limits(workers=1), do)
        with pytest.raises(RuntimeError, match="Panic: oh"):
            await pool.run(lambda: 1)
        panics.append(False)
        answer: int = await pool.run(lambda: 2)
        pool.close()
        return answer

    assert asyncio.run(run()) == 2
    assert "in do" in caplog.text  # the frames it came through
