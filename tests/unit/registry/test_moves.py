from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from pulmo.core.ports import ModelRef, Verdict, Version
from pulmo.errors import ConflictError, NotFoundError, RefusedError, RegistryError
from pulmo.registry.local import LocalRegistry
from pulmo.store.database import open_database
from pulmo.store.tables import DeletionRow, EventRow

Put = Callable[..., Version]
Promote = Callable[[Version], None]
BY = {"actor": "ada", "reason": "because"}


def at(registry: LocalRegistry, alias: str) -> int:
    return registry.get(ModelRef("toy", alias=alias)).number


def chain(registry: LocalRegistry, alias: str) -> list[tuple[str, int | None, int | None]]:
    return [(m.action, m.before, m.after) for m in registry.history("toy") if m.alias == alias]


def test_an_alias_moves_from_where_it_was_expected(registry: LocalRegistry, put: Put) -> None:
    put(1), put(2)
    registry.set_alias("toy", "staging", 0, expected=None, **BY)
    move = registry.set_alias("toy", "staging", 1, expected=0, **BY)
    assert (move.action, move.before, move.after, move.actor, move.reason) == (
        "set", 0, 1, "ada", "because",
    )  # fmt: skip
    assert registry.history("toy")[-1] == move
    assert at(registry, "staging") == 1


@pytest.mark.parametrize("expected", [None, 1])
def test_an_alias_that_is_elsewhere_is_a_conflict(
    registry: LocalRegistry, put: Put, expected: int | None
) -> None:
    put(1), put(2)
    registry.set_alias("toy", "staging", 0, expected=None, **BY)
    with pytest.raises(ConflictError, match="toy:staging points at v0 now, not at"):
        registry.set_alias("toy", "staging", 1, expected=expected, **BY)
    assert chain(registry, "staging") == [("set", None, 0)]


def test_an_alias_is_removed_and_tells_its_end(registry: LocalRegistry, put: Put) -> None:
    put(1)
    registry.set_alias("toy", "team", 0, expected=None, **BY)
    with pytest.raises(ConflictError, match="not at v7"):
        registry.remove_alias("toy", "team", expected=7, **BY)
    assert registry.remove_alias("toy", "team", expected=0, **BY).after is None
    assert chain(registry, "team") == [("set", None, 0), ("remove", 0, None)]
    with pytest.raises(NotFoundError, match="no alias 'team'"):
        registry.remove_alias("toy", "team", expected=0, **BY)


@pytest.mark.parametrize("alias", ["production", "latest", "best"])
def test_guarded_aliases_are_not_moved_by_hand(
    registry: LocalRegistry, put: Put, alias: str
) -> None:
    put(1)
    with pytest.raises(RefusedError, match=f"toy:{alias}"):
        registry.set_alias("toy", alias, 0, expected=None, **BY)
    with pytest.raises(RefusedError, match=f"toy:{alias}"):
        registry.remove_alias("toy", alias, expected=0, **BY)


@pytest.mark.parametrize("alias", ["v3", "Team", "", "a b"])
def test_a_word_that_cannot_be_an_alias_is_refused(
    registry: LocalRegistry, put: Put, alias: str
) -> None:
    put(1)
    with pytest.raises(RegistryError, match="cannot be an alias"):
        registry.set_alias("toy", alias, 0, expected=None, **BY)


def test_an_alias_points_only_at_what_exists(registry: LocalRegistry, put: Put) -> None:
    put(1)
    with pytest.raises(NotFoundError, match="no toy:v9"):
        registry.set_alias("toy", "team", 9, expected=None, **BY)
    with pytest.raises(NotFoundError, match="no model 'toi'"):
        registry.set_alias("toi", "team", 0, expected=None, **BY)


def test_every_move_but_the_automatic_ones_leaves_an_event(
    registry: LocalRegistry, put: Put, promote: Promote, places: Any
) -> None:
    first, second = put(1), put(2)
    promote(first), promote(second)
    registry.rollback("toy", to=None, **BY)
    registry.set_alias("toy", "team", 1, expected=None, **BY)
    registry.remove_alias("toy", "team", expected=1, **BY)
    with open_database(places.database).read() as session:
        rows = list(session.scalars(select(EventRow).order_by(EventRow.id)))
        session.expunge_all()
    moves = [move for move in registry.history("toy") if move.action != "register"]
    assert [(r.kind, r.payload["before"], r.payload["after"]) for r in rows] == [
        ("promote", None, 0),
        ("promote", 0, 1),
        ("rollback", 1, 0),
        ("set", None, 1),
        ("remove", 1, None),
    ]
    assert [row.payload["move"] for row in rows] == [move.id for move in moves]
    assert len({row.event for row in rows}) == 5
    assert all(row.delivered_at is None for row in rows)
    assert rows[-1].payload["model_digest"] == second.model_digest
    assert datetime.fromisoformat(rows[0].payload["at"]) == moves[0].at


def test_rollback_returns_to_the_version_below(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    for number in range(3):
        promote(put(number))
    move = registry.rollback("toy", to=None, **BY)
    assert (move.action, move.before, move.after) == ("rollback", 2, 1)
    held = next(m for m in registry.history("toy") if m.action == "promote" and m.after == 1)
    digest = registry.versions("toy")[1].model_digest
    assert move.evidence == {"model_digest": digest, "move": held.id}
    assert registry.rollback("toy", to=None, **BY).after == 0
    with pytest.raises(RefusedError, match="toy:v0 is in production and no earlier version"):
        registry.rollback("toy", to=None, **BY)


def test_rollback_to_a_version_that_was_popped_puts_it_on_top(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    for number in range(3):
        promote(put(number))
    registry.rollback("toy", to=0, **BY)
    assert registry.rollback("toy", to=2, **BY).after == 2
    assert registry.rollback("toy", to=None, **BY).after == 0


def test_rollback_skips_what_was_deleted(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    for number in range(3):
        promote(put(number))
    registry.delete("toy", 1, **BY)
    with pytest.raises(RefusedError, match="has been deleted since"):
        registry.rollback("toy", to=1, **BY)
    assert registry.rollback("toy", to=None, **BY).after == 0


def test_rollback_never_stays_where_it_is(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    first, second = put(1), put(2)
    promote(first), promote(second), promote(first)
    registry.delete("toy", 1, **BY)
    with pytest.raises(RefusedError, match="no earlier version is left"):
        registry.rollback("toy", to=None, **BY)
    with pytest.raises(RefusedError, match="in production already"):
        registry.rollback("toy", to=0, **BY)


def test_rollback_needs_a_past_in_production(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    put(1)
    with pytest.raises(NotFoundError, match="nothing is at toy:production"):
        registry.rollback("toy", to=None, **BY)
    promote(put(2))
    with pytest.raises(RefusedError, match="toy:v0 was never in production"):
        registry.rollback("toy", to=0, **BY)
    with pytest.raises(NotFoundError, match="no toy:v9"):
        registry.rollback("toy", to=9, **BY)


def test_a_deleted_number_is_never_used_again(registry: LocalRegistry, put: Put) -> None:
    put(1), put(2)
    registry.delete("toy", 1, **BY)
    with pytest.raises(NotFoundError, match="no toy:v1"):
        registry.get(ModelRef("toy", version=1))
    assert put(2).number == 2
    assert put(3).number == 3


def test_automatic_aliases_fall_back_when_their_version_goes(
    registry: LocalRegistry, put: Put
) -> None:
    put(1, score=0.7), put(2, score=0.9), put(3, score=0.8)
    registry.delete("toy", 2, **BY)
    registry.delete("toy", 1, **BY)
    assert registry.versions("toy")[0].aliases == ("best", "latest")
    assert chain(registry, "best")[-1] == ("set", 1, 0)
    registry.delete("toy", 0, actor="ada", reason="old")
    assert registry.versions("toy") == []
    last = registry.history("toy")[-1]
    assert (last.action, last.before, last.after) == ("remove", 0, None)
    assert last.reason == "v0 deleted: old"


def test_an_aliased_version_is_not_deleted(
    registry: LocalRegistry, put: Put, promote: Promote
) -> None:
    promote(put(1))
    registry.set_alias("toy", "team", 0, expected=None, **BY)
    with pytest.raises(RefusedError, match="toy:v0 is production, team: move"):
        registry.delete("toy", 0, **BY)
    with pytest.raises(NotFoundError, match="no toy:v9"):
        registry.delete("toy", 9, **BY)
    assert at(registry, "team") == 0


def test_a_deletion_is_remembered(registry: LocalRegistry, put: Put, places: Any) -> None:
    version = put(1)
    registry.delete("toy", 0, actor="bob", reason="wrong labels")
    with open_database(places.database).read() as session:
        row = session.scalars(select(DeletionRow)).one()
        assert (row.number, row.actor, row.reason) == (0, "bob", "wrong labels")
        assert row.bundle_digest == version.bundle_digest


def test_a_deleted_version_registered_again_keeps_its_verdicts(
    registry: LocalRegistry, put: Put, judge: Callable[..., Verdict]
) -> None:
    judge(put(1))
    registry.delete("toy", 0, **BY)
    again = put(1)
    move = registry.promote("toy", again.number, suite_digest="suite", **BY)
    assert (move.before, move.after) == (None, 1)
