"""The port `pulmo.core.ports.JobQueue` as a table of the registry's database."""

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from pulmo.core.ports import Job
from pulmo.errors import NotFoundError
from pulmo.registry.outbox import pause_s
from pulmo.registry.versions import now
from pulmo.store.database import Database
from pulmo.store.tables import JobRow

LEASE_S = 30.0  # without a sign of life a worker counts as dead
ATTEMPTS = 5

_OPEN = ("waiting", "running")


class SqlJobs:
    """Jobs by key: enqueued once, held by one worker at a time, one of each model at a time."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime] = now,
        lease_s: float = LEASE_S,
    ) -> None:
        self._database, self._clock, self._lease = database, clock, timedelta(seconds=lease_s)

    def enqueue(self, key: str, name: str, payload: Mapping[str, Any]) -> tuple[Job, bool]:
        """The job of a key and whether it is new, in one transaction."""
        moment = self._clock()
        row = JobRow(
            key=key, name=name, payload=dict(payload), created_at=moment, due_at=moment, attempts=0
        )
        with self._database.write() as session:
            known = _by_key(session, key)
            if known is not None:
                return _job(known), False
            try:
                with session.begin_nested():
                    session.add(row)
            except IntegrityError:  # told twice in the same moment
                return _job(session.scalars(select(JobRow).where(JobRow.key == key)).one()), False
            return _job(row), True

    def claim(self, key: str | None = None) -> Job | None:
        """The oldest job that is due, of a model that no worker is at."""
        moment = self._clock()
        busy = aliased(JobRow)
        held = select(busy.name).where(busy.state == "running", busy.due_at > moment)
        query = (
            select(JobRow)
            .where(JobRow.state.in_(_OPEN), JobRow.due_at <= moment, JobRow.name.not_in(held))
            .order_by(JobRow.id)
            .limit(1)
        )
        if key is not None:
            query = query.where(JobRow.key == key)
        with self._database.write() as session:
            # Claims take turns: a row that another has locked would hide that its model is held.
            session.execute(select(JobRow.id).where(JobRow.state.in_(_OPEN)).with_for_update())
            while (row := session.scalar(query)) is not None:
                if row.attempts < ATTEMPTS:
                    row.state, row.claim = "running", str(uuid.uuid4())
                    row.attempts += 1
                    row.due_at = moment + self._lease
                    return _job(row)
                row.state, row.ended_at = "failed", moment
                row.detail = row.detail or f"its worker died {row.attempts} times"
                session.flush()
        return None

    def hold(self, job: Job) -> bool:
        """Keep a claimed job a little longer; whether it is still ours."""
        with self._database.write() as session:
            row = _held(session, job)
            if row is not None:
                row.due_at = self._clock() + self._lease
            return row is not None

    def finish(self, job: Job, state: str, detail: str) -> None:
        """End a claimed job; nothing happens where another worker took it over."""
        with self._database.write() as session:
            if (row := _held(session, job)) is not None:
                row.state, row.detail, row.ended_at = state, detail, self._clock()

    def retry(self, job: Job, error: str) -> None:
        """Give a claimed job back; after the last attempt it has failed."""
        with self._database.write() as session:
            if (row := _held(session, job)) is None:
                return
            row.detail = error
            if row.attempts >= ATTEMPTS:
                row.state, row.ended_at = "failed", self._clock()
            else:
                row.state = "waiting"
                row.due_at = self._clock() + timedelta(seconds=pause_s(row.attempts))

    def again(self, key: str | None = None) -> int:
        """Let a failed job, or all of them, be tried again; how many that are."""
        query = select(JobRow).where(JobRow.state == "failed").with_for_update()
        if key is not None:
            query = query.where(JobRow.key == key)
        with self._database.write() as session:
            rows = session.scalars(query).all()
            for row in rows:
                row.state, row.attempts, row.ended_at = "waiting", 0, None
                row.due_at = self._clock()
            return len(rows)

    def get(self, key: str) -> Job:
        """The job of a key. Raises NotFoundError."""
        with self._database.read() as session:
            row = _by_key(session, key)
            if row is None:
                raise NotFoundError(f"there is no job {key}: `pulmo hooks list --all` shows all")
            return _job(row)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        with self._database.read() as session:
            return [_job(row) for row in session.scalars(select(JobRow).order_by(JobRow.id))]


def _by_key(session: Session, key: str) -> JobRow | None:
    return session.scalar(select(JobRow).where(JobRow.key == key))


def _held(session: Session, job: Job) -> JobRow | None:
    query = select(JobRow).where(
        JobRow.id == job.id, JobRow.state == "running", JobRow.claim == job.claim
    )
    return session.scalar(query.with_for_update())


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        key=row.key,
        name=row.name,
        payload=row.payload,
        state=cast(Any, row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        ended_at=row.ended_at,
        detail=row.detail,
        claim=row.claim,
    )
