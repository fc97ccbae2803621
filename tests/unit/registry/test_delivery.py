from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pulmo.core.events import Event
from pulmo.core.ports import Version
from pulmo.registry.delivery import Sender, Tally
from pulmo.registry.local import LocalRegistry
from pulmo.registry.outbox import Outbox
from pulmo.registry.targets import UndeliveredError
from pulmo.store.database import Database, open_database

pytestmark = pytest.mark.parametrize("places", ["sqlite, folder"], indirect=True)


class Target:
    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: list[Event] = []
        self.error: UndeliveredError | None = None

    def send(self, event: Event) -> None:
        if self.error:
            raise self.error
        self.taken.append(event)


@pytest.fixture
def outbox(registry: LocalRegistry, put: Callable[..., Version], places: Any) -> Iterator[Outbox]:
    for number in (0, 1):
        put(number)
        expected = number - 1 if number else None
        registry.set_alias("toy", "staging", number, expected=expected, actor="a", reason="r")
    database: Database = open_database(places.database)
    yield Outbox(database)
    database.close()


def test_every_target_gets_every_event_in_order(outbox: Outbox) -> None:
    one, two = Target("one"), Target("two")
    sender = Sender(outbox, [one, two])
    assert sender.deliver() == Tally(arrived=4)
    assert [event.payload["after"] for event in one.taken] == [0, 1]
    assert one.taken == two.taken
    assert sender.deliver() == Tally()
    assert sender.next_due() is None
    assert sender.deliveries() == []
    assert len(sender.deliveries(everything=True)) == 4


def test_a_target_that_fails_keeps_nobody_else_waiting(outbox: Outbox) -> None:
    one, two = Target("one"), Target("two")
    one.error = UndeliveredError("no answer")
    sender = Sender(outbox, [one, two])
    assert sender.deliver() == Tally(arrived=2, failed=1)
    assert (one.taken, len(two.taken)) == ([], 2)
    assert sender.next_due() is not None
    assert [d.error for d in sender.deliveries()] == ["no answer", None]


def test_what_will_never_be_taken_is_dead_and_can_be_sent_again(outbox: Outbox) -> None:
    one = Target("one")
    one.error = UndeliveredError("answered 404", final=True)
    sender = Sender(outbox, [one])
    assert sender.deliver() == Tally(failed=2)
    assert [d.state for d in sender.deliveries()] == ["dead", "dead"]
    one.error = None
    assert sender.resend() == 2
    assert sender.deliver() == Tally(arrived=2)


def test_one_target_can_be_told_alone(outbox: Outbox) -> None:
    one, two = Target("one"), Target("two")
    assert Sender(outbox, [one, two]).deliver("two") == Tally(arrived=2)
    assert (len(one.taken), len(two.taken)) == (0, 2)


def test_who_was_not_told_at_first_is_told_later(outbox: Outbox) -> None:
    one, two = Target("one"), Target("two")
    sender = Sender(outbox, [one, two])
    assert sender.deliver("one") == Tally(arrived=2)
    assert sender.deliver() == Tally(arrived=2)
    assert one.taken == two.taken
