"""The outbox: every event on its way to every target, in order, until it is there or dead."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pulmo.core.events import Event
from pulmo.errors import NotFoundError
from pulmo.registry.versions import now
from pulmo.store.database import Database
from pulmo.store.tables import DeliveryRow, EventRow

WAITING, DELIVERED, DEAD = "waiting", "delivered", "dead"
ATTEMPTS = 12  # then a delivery is dead until somebody sends it again
LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class Delivery:
    """One event and one target, as people see them."""

    event: str
    model: str
    kind: str
    alias: str
    target: str
    state: str
    attempts: int
    due_at: datetime
    ended_at: datetime | None
    error: str | None


@dataclass(frozen=True)
class Parcel:
    """An event that is being sent to a target by whoever holds the claim."""

    id: int
    event_id: int
    event: Event
    target: str
    attempts: int  # before this one
    claim: str


def pause_s(attempts: int) -> float:
    """Seconds before the next attempt: doubled each time, five minutes at most."""
    return min(2.0 ** (attempts - 1), LONGEST_PAUSE_S)


class Outbox:
    """Deliveries in the registry's database; any number of processes may send from it."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime] = now,
        pause: Callable[[int], float] = pause_s,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._database, self._clock = database, clock
        self._pause, self._attempts = pause, attempts

    def route(self, targets: Sequence[str]) -> None:
        """Put every event that has not arrived everywhere on its way to each of `targets`."""
        with self._database.write() as session:
            events = session.scalars(
                select(EventRow)
                .where(EventRow.delivered_at.is_(None))
                .order_by(EventRow.id)
                .with_for_update()
            ).all()
            routed = (
                select(DeliveryRow.event_id, DeliveryRow.target)
                .join(EventRow, EventRow.id == DeliveryRow.event_id)
                .where(EventRow.delivered_at.is_(None))
            )
            known = {(row[0], row[1]) for row in session.execute(routed)}
            for event in events:
                for target in targets:
                    if (event.id, target) not in known:
                        session.add(_row(event, target, self._clock()))

    def claim(self, target: str, lease_s: float) -> Parcel | None:
        """The next event that is due for a target, held for `lease_s` seconds.

        Of one model only the first that has not arrived: no event overtakes another.
        """
        heads = (
            select(func.min(DeliveryRow.id))
            .where(DeliveryRow.state == WAITING, DeliveryRow.target == target)
            .group_by(DeliveryRow.name)
        )
        with self._database.write() as session:
            row = session.scalar(
                select(DeliveryRow)
                .where(
                    DeliveryRow.id.in_(heads),
                    DeliveryRow.state == WAITING,
                    DeliveryRow.due_at <= self._clock(),
                )
                .order_by(DeliveryRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if row is None:
                return None
            row.claim = str(uuid.uuid4())
            row.due_at = self._clock() + timedelta(seconds=lease_s)
            event = session.get_one(EventRow, row.event_id)
            told = Event(event.event, event.name, event.payload)
            return Parcel(row.id, row.event_id, told, target, row.attempts, row.claim)

    def next_due(self, targets: Sequence[str]) -> datetime | None:
        """When the next delivery to one of `targets` may be tried, None where none waits."""
        query = select(func.min(DeliveryRow.due_at)).where(
            DeliveryRow.state == WAITING, DeliveryRow.target.in_(targets)
        )
        with self._database.read() as session:
            return session.scalar(query)

    def arrived(self, parcel: Parcel) -> None:
        """Note that an event has reached its target."""
        with self._database.write() as session:
            session.get_one(EventRow, parcel.event_id, with_for_update=True)  # targets take turns
            row = session.get_one(DeliveryRow, parcel.id, with_for_update=True)
            row.state, row.ended_at, row.error = DELIVERED, self._clock(), None
            row.attempts += 1
            session.flush()
            self._close(session, row.event_id)

    def failed(self, parcel: Parcel, error: str, *, final: bool, wait_s: float = 0.0) -> None:
        """Note that an event did not reach its target: it is tried again or, if `final`, dead."""
        with self._database.write() as session:
            row = session.get_one(DeliveryRow, parcel.id, with_for_update=True)
            if row.claim != parcel.claim or row.state != WAITING:
                return  # another process took over
            row.attempts += 1
            row.error = error[:500]
            if final or row.attempts >= self._attempts:
                row.state, row.ended_at = DEAD, self._clock()
            pause = max(self._pause(row.attempts), min(wait_s, LONGEST_PAUSE_S))
            row.due_at = self._clock() + timedelta(seconds=pause)

    def deliveries(self, *, everything: bool = False) -> list[Delivery]:
        """What has not arrived, or everything, in order."""
        query = (
            select(DeliveryRow, EventRow)
            .join(EventRow, EventRow.id == DeliveryRow.event_id)
            .order_by(DeliveryRow.id)
        )
        if not everything:
            query = query.where(DeliveryRow.state != DELIVERED)
        with self._database.read() as session:
            return [_delivery(row, event) for row, event in session.execute(query)]

    def resend(self, event: str | None = None) -> int:
        """Send a dead event again, or all of them; how many deliveries that are.

        Raises NotFoundError where the named event has none.
        """
        query = select(DeliveryRow).where(DeliveryRow.state == DEAD).with_for_update()
        with self._database.write() as session:
            if event is not None:
                number = session.scalar(select(EventRow.id).where(EventRow.event == event))
                query = query.where(DeliveryRow.event_id == number)
            rows = session.scalars(query).all()
            if event is not None and not rows:
                raise NotFoundError(
                    f"no delivery of the event {event} is dead: `pulmo hooks list` shows them"
                )
            for row in rows:
                row.state, row.attempts, row.ended_at = WAITING, 0, None
                row.due_at = self._clock()
            return len(rows)

    def _close(self, session: Session, event_id: int) -> None:
        left = select(DeliveryRow.id).where(
            DeliveryRow.event_id == event_id, DeliveryRow.state != DELIVERED
        )
        if session.scalar(left.limit(1)) is None:
            session.get_one(EventRow, event_id).delivered_at = self._clock()


def _row(event: EventRow, target: str, due_at: datetime) -> DeliveryRow:
    return DeliveryRow(event_id=event.id, target=target, name=event.name, due_at=due_at)


def _delivery(row: DeliveryRow, event: EventRow) -> Delivery:
    return Delivery(
        event=event.event,
        model=event.name,
        kind=event.kind,
        alias=event.payload["alias"],
        target=row.target,
        state=row.state,
        attempts=row.attempts,
        due_at=row.due_at,
        ended_at=row.ended_at,
        error=row.error,
    )
