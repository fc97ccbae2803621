import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Request

from pulmo.errors import BusyError, DataError, TooLargeError, TooSlowError
from pulmo.serving.limits import TOGETHER, Intake, Limits, Outcome, Pool, one_by_one


def request(*bodies: bytes, then: str = "", length: int | None = None) -> Request:
    """A request whose body comes in pieces; `then` it waits for ever or the client goes away."""
    pieces = list(bodies)

    async def receive() -> dict[str, Any]:
        if pieces:
            more = len(pieces) > 1 or bool(then)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": more}
        if then == "wait":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return Request({"type": "http", "headers": headers, "state": {"unread": True}}, receive)


def read(intake: Intake, asked: Request) -> bytes:
    async def run() -> bytes:
        async with intake.body(asked) as body:
            return body

    return asyncio.run(run())


def test_a_body_is_put_together() -> None:
    asked = request(b"ab", b"cd")
    assert read(Intake(Limits()), asked) == b"abcd"
    assert asked.state.unread is False


def test_a_body_that_stops_coming_is_given_up() -> None:
    asked = request(b"ab", then="wait")
    with pytest.raises(TooSlowError, match="only 2 bytes"):
        read(Intake(Limits(receive_s=0.01)), asked)
    assert asked.state.unread is True


def test_a_client_that_goes_away_is_no_fault_of_ours() -> None:
    with pytest.raises(DataError, match="went away"):
        read(Intake(Limits()), request(b"ab", then="leave"))


def test_a_told_length_is_refused_before_a_byte_is_read() -> None:
    asked = request(b"ab", length=10**9)
    with pytest.raises(TooLargeError):
        read(Intake(Limits()), asked)
    with pytest.raises(TooLargeError):
        read(Intake(Limits(body_bytes=1)), asked)


@pytest.mark.parametrize("length", [0, 5])
def test_a_wrong_length_does_not_matter(length: int) -> None:
    assert read(Intake(Limits()), request(b"ab", length=length)) == b"ab"


def test_what_bodies_held_is_given_back_whatever_happens() -> None:
    intake = Intake(Limits(memory_bytes=3, body_bytes=5, receive_s=0.01))
    for bad in (request(b"abcd"), request(b"ab", then="wait"), request(b"abc", then="leave")):
        with pytest.raises((BusyError, TooSlowError, DataError)):
            read(intake, bad)
    assert read(intake, request(b"abc")) == b"abc"


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
