import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pulmo.errors import NotFoundError
from pulmo.registry.queue import ATTEMPTS, LEASE_S, SqlJobs
from pulmo.store.database import open_database

pytestmark = pytest.mark.parametrize(
    "places", ["sqlite, folder", "postgres, folder"], indirect=True
)
PAYLOAD = {"ref": "toy:v0"}


class Clock:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(places: Any, clock: Clock) -> Iterator[SqlJobs]:
    database = open_database(places.database)
    yield SqlJobs(database, clock)
    database.close()


def test_a_key_is_enqueued_once(queue: SqlJobs) -> None:
    first, new = queue.enqueue("event:1", "toy", PAYLOAD)
    again, newer = queue.enqueue("event:1", "toy", {"ref": "toy:v9"})
    assert (new, newer, again) == (True, False, first)
    assert [job.payload for job in queue.jobs()] == [PAYLOAD]


def test_many_that_tell_the_same_make_one_job(queue: SqlJobs) -> None:
    new: list[bool] = []
    threads = [
        threading.Thread(target=lambda: new.append(queue.enqueue("event:1", "toy", PAYLOAD)[1]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False] * 7 + [True]


def test_one_worker_gets_a_job_and_one_job_of_a_model_runs_at_a_time(queue: SqlJobs) -> None:
    for key, name in (("a", "toy"), ("b", "toy"), ("c", "other")):
        queue.enqueue(key, name, PAYLOAD)
    claimed = [queue.claim(), queue.claim(), queue.claim()]
    assert [job.key if job else None for job in claimed] == ["a", "c", None]
    assert claimed[0] is not None
    queue.finish(claimed[0], "done", "promoted")
    done = queue.get("a")
    assert (done.state, done.detail, done.ended) == ("done", "promoted", True)
    second = queue.claim("b")
    assert second is not None
    assert second.key == "b"


def test_a_job_of_a_dead_worker_goes_to_the_next_one(queue: SqlJobs, clock: Clock) -> None:
    queue.enqueue("a", "toy", PAYLOAD)
    dead = queue.claim()
    assert dead is not None
    clock.pass_by(LEASE_S - 1)
    assert queue.hold(dead)
    clock.pass_by(LEASE_S - 1)
    assert queue.claim() is None
    clock.pass_by(1)
    taken = queue.claim()
    assert taken is not None
    assert taken.attempts == 2
    assert not queue.hold(dead)
    queue.finish(dead, "done", "by the dead")
    queue.retry(dead, "by the dead")
    assert queue.get("a").state == "running"


def test_a_job_that_kills_its_workers_fails_in_the_end(queue: SqlJobs, clock: Clock) -> None:
    queue.enqueue("a", "toy", PAYLOAD)
    for _ in range(ATTEMPTS):
        assert queue.claim() is not None
        clock.pass_by(LEASE_S)
    assert queue.claim() is None
    assert (queue.get("a").state, queue.get("a").detail) == ("failed", "its worker died 5 times")


def test_what_fails_is_tried_later_then_given_up_until_asked_for(
    queue: SqlJobs, clock: Clock
) -> None:
    queue.enqueue("a", "toy", PAYLOAD)
    for attempt in range(1, ATTEMPTS + 1):
        job = queue.claim()
        assert job is not None
        assert job.attempts == attempt
        queue.retry(job, "no data")
        assert queue.claim() is None
        clock.pass_by(2**attempt)
    assert queue.claim() is None
    assert (queue.get("a").state, queue.get("a").detail) == ("failed", "no data")
    assert queue.again("b") == 0
    assert queue.again("a") == 1
    assert queue.claim() is not None
    assert queue.again() == 0


def test_an_unknown_key_has_no_job(queue: SqlJobs) -> None:
    with pytest.raises(NotFoundError, match="hooks list"):
        queue.get("nothing")
