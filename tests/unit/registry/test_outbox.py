from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pulmo.core.ports import Version
from pulmo.errors import NotFoundError
from pulmo.registry.local import LocalRegistry
from pulmo.registry.outbox import ATTEMPTS, DEAD, Outbox, Parcel, pause_s
from pulmo.store.database import Database, open_database
from pulmo.store.tables import EventRow

pytestmark = pytest.mark.parametrize(
    "places", ["sqlite, folder", "postgres, folder"], indirect=True
)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def database(places: Any) -> Iterator[Database]:
    opened = open_database(places.database)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(registry: LocalRegistry, database: Database, clock: Clock) -> Outbox:
    return Outbox(database, clock)


@pytest.fixture
def staged(registry: LocalRegistry, put: Callable[..., Version]) -> None:
    """Three events: `staging` of toy to v0 and to v1, and of other to v0."""
    for number in (0, 1):
        put(number)
        expected = number - 1 if number else None
        registry.set_alias("toy", "staging", number, expected=expected, actor="ada", reason="r")
    put(9, name="other")
    registry.set_alias("other", "staging", 0, expected=None, actor="ada", reason="r")


def taken(outbox: Outbox, target: str = "a") -> Parcel:
    parcel = outbox.claim(target, 20)
    assert parcel is not None
    return parcel


@pytest.mark.usefixtures("staged")
def test_events_of_a_model_come_in_order_and_models_do_not_wait_for_each_other(
    outbox: Outbox,
) -> None:
    outbox.route(["a"])
    first, other = taken(outbox), taken(outbox)
    assert (first.event.name, first.event.payload["after"]) == ("toy", 0)
    assert other.event.name == "other"
    assert outbox.claim("a", 20) is None  # the second of toy waits for the first
    outbox.arrived(first)
    assert taken(outbox).event.payload["after"] == 1
    outbox.arrived(other)


@pytest.mark.usefixtures("staged")
def test_a_target_does_not_wait_for_another_one(outbox: Outbox) -> None:
    outbox.route(["a", "b"])
    assert taken(outbox, "a").event == taken(outbox, "b").event


@pytest.mark.usefixtures("staged")
def test_routing_twice_sends_once(outbox: Outbox) -> None:
    outbox.route(["a"])
    outbox.route(["a", "b"])
    assert [d.target for d in outbox.deliveries()] == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.usefixtures("staged")
def test_an_event_is_done_when_it_is_everywhere(outbox: Outbox, database: Database) -> None:
    outbox.route(["a", "b"])
    outbox.arrived(taken(outbox, "a"))
    with database.read() as session:
        assert session.get_one(EventRow, 1).delivered_at is None
    outbox.arrived(taken(outbox, "b"))
    with database.read() as session:
        assert session.get_one(EventRow, 1).delivered_at == START
    outbox.route(["a", "b", "c"])
    assert {d.event for d in outbox.deliveries(everything=True) if d.target == "c"} == {
        d.event for d in outbox.deliveries() if d.target == "a"
    }


@pytest.mark.usefixtures("staged")
def test_what_a_dead_sender_held_is_free_after_a_while(outbox: Outbox, clock: Clock) -> None:
    outbox.route(["a"])
    lost = taken(outbox)
    clock.pass_by(20)
    again = taken(outbox)
    assert again.event == lost.event
    outbox.failed(lost, "too late", final=True)  # the former holder has nothing to say
    outbox.arrived(again)
    assert outbox.deliveries(everything=True)[0].state == "delivered"


@pytest.mark.usefixtures("staged")
def test_failures_are_repeated_ever_later_then_dead_and_the_next_one_goes(
    outbox: Outbox, clock: Clock
) -> None:
    outbox.route(["a"])
    for attempt in range(ATTEMPTS):
        parcel = taken(outbox)
        assert (parcel.event.name, parcel.attempts) == ("toy", attempt)
        outbox.arrived(taken(outbox)) if attempt == 0 else None
        outbox.failed(parcel, f"error {attempt}", final=False)
        assert outbox.claim("a", 20) is None or attempt == ATTEMPTS - 1
        clock.pass_by(pause_s(attempt + 1))
    dead = outbox.deliveries()[0]
    assert (dead.state, dead.attempts, dead.error) == (DEAD, ATTEMPTS, f"error {ATTEMPTS - 1}")
    clock.pass_by(20)
    assert taken(outbox).event.payload["after"] == 1


def test_pauses_double_up_to_five_minutes(places: Any) -> None:
    assert [pause_s(n) for n in (1, 2, 3, 9, 10, 50)] == [1, 2, 4, 256, 300, 300]


@pytest.mark.usefixtures("staged")
def test_a_receiver_may_ask_for_a_longer_pause_within_bounds(outbox: Outbox, clock: Clock) -> None:
    outbox.route(["a"])
    outbox.failed(taken(outbox), "429", final=False, wait_s=60)
    assert outbox.deliveries()[0].due_at == START + timedelta(seconds=60)
    clock.pass_by(60)
    outbox.failed(taken(outbox), "429", final=False, wait_s=10**6)
    assert outbox.deliveries()[0].due_at == clock.now + timedelta(seconds=300)
    assert outbox.next_due(["a"]) == START
    assert outbox.next_due(["b"]) is None


@pytest.mark.usefixtures("staged")
def test_a_dead_event_is_sent_again_when_asked_for(outbox: Outbox) -> None:
    outbox.route(["a"])
    outbox.failed(taken(outbox), "404", final=True)
    event = outbox.deliveries()[0].event
    with pytest.raises(NotFoundError, match="no delivery"):
        outbox.resend("unknown")
    assert outbox.resend(event) == 1
    again = taken(outbox)
    assert (again.event.id, again.attempts) == (event, 0)
    outbox.failed(again, "404", final=True)
    assert outbox.resend() == 1


@pytest.mark.usefixtures("staged")
def test_the_body_is_the_same_at_every_attempt(outbox: Outbox, clock: Clock) -> None:
    outbox.route(["a"])
    body = taken(outbox).event.body
    clock.pass_by(30)
    assert taken(outbox).event.body == body
    assert b'"alias":"staging"' in body
