"""Rows out of a database and into another."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from pulmo.errors import RegistryError
from pulmo.store.database import Database, open_database
from pulmo.store.dump import MAX_LINE_BYTES, dump_rows, faults, is_empty, load_rows
from pulmo.store.tables import AliasRow, ModelRow, MoveRow, VersionRow

MOMENT = datetime(2026, 1, 1, 12, 30, 15, 123456, UTC)


@pytest.fixture
def full(tmp_path: Path) -> Database:
    opened = open_database(f"sqlite:///{tmp_path}/full.db")
    facts: dict[str, Any] = {"name": "toy", "created_at": MOMENT, "created_by": "ada ☂"}
    facts |= {"model_digest": "0" * 64, "bundle_digest": "1" * 64, "metric": "auroc"}
    with opened.write() as session:
        session.add(ModelRow(name="toy", next_number=2))
        session.flush()
        session.add(VersionRow(number=0, score=0.1 + 0.2, **facts))
        session.add(VersionRow(number=1, score=None, **facts | {"model_digest": "2" * 64}))
        session.flush()
        session.add(AliasRow(name="toy", alias="latest", number=1))
        for number in range(500):
            told = {"b": [1, None], "a": "ü\0"}
            move = {"alias": "latest", "action": "set", "actor": "ada", "reason": "", "at": MOMENT}
            before = None if number == 0 else number % 2
            session.add(MoveRow(name="toy", before=before, after=1, evidence=told, **move))
    return opened


@pytest.fixture
def empty(tmp_path: Path) -> Database:
    return open_database(f"sqlite:///{tmp_path}/empty.db")


def dumped(opened: Database) -> list[bytes]:
    with opened.read() as session:
        return list(dump_rows(session))


def load(opened: Database, *lines: bytes) -> None:
    with opened.write() as session:
        load_rows(session, lines)


def line(table: str = "models", **row: object) -> bytes:
    return json.dumps([table, row]).encode()


def test_loaded_rows_are_dumped_as_the_same_bytes(full: Database, empty: Database) -> None:
    lines = dumped(full)
    assert len(lines) == 504
    load(empty, *lines)
    assert dumped(empty) == lines


def test_numbers_go_on_after_the_highest_one(full: Database, empty: Database) -> None:
    load(empty, *dumped(full))
    with empty.write() as session:
        move = MoveRow(name="toy", alias="a", action="set", after=1, actor="", reason="")
        move.evidence, move.at = {}, MOMENT
        session.add(move)
        session.flush()
        assert move.id == 501


def test_a_database_is_empty_until_its_first_row(full: Database, empty: Database) -> None:
    with full.read() as session:
        assert not is_empty(session)
    with empty.read() as session:
        assert is_empty(session)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        b'["models", []]',
        line("sqlite_master", name="x"),
        line(name="x"),
        line(name="x", next_number=0, more=1),
        line(name=None, next_number=0),
        line(name="x" * 65, next_number=0),
        line(name="a\0b", next_number=0),
        line(name="\ud800", next_number=0),
        line(name=["x"], next_number=0),
        line(name="x", next_number=True),
        line(name="x", next_number=1.5),
        line(name="x", next_number=2**31),
        b'["models", {"name": "x", "next_number": NaN}]',
        line(name="x" * MAX_LINE_BYTES, next_number=0),
    ],
    ids=range(19),
)
def test_what_is_no_row_is_refused_with_its_line(empty: Database, bad: bytes) -> None:
    with pytest.raises(RegistryError, match="line 2 is no row of a registry"):
        load(empty, line(name="toy", next_number=0), bad)
    assert dumped(empty) == []


def changed(lines: list[bytes], table: str, **changes: object) -> list[bytes]:
    rows = [json.loads(one) for one in lines]
    return [json.dumps([t, row | changes if t == table else row]).encode() for t, row in rows]


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("versions", {"created_at": "2026-01-01T00:00:00"}),
        ("versions", {"created_at": "yesterday"}),
        ("versions", {"created_at": 5}),
        ("versions", {"score": "0.5"}),
        ("history", {"evidence": "x"}),
    ],
)
def test_columns_hold_their_own_kind_of_value(
    full: Database, empty: Database, table: str, changes: dict[str, object]
) -> None:
    with pytest.raises(RegistryError, match="is no row of a registry"):
        load(empty, *changed(dumped(full), table, **changes))


def test_rows_that_point_nowhere_are_refused(full: Database, empty: Database) -> None:
    with pytest.raises(RegistryError, match="FOREIGN KEY"):
        load(empty, *changed(dumped(full), "aliases", number=7))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_make_it_stumble(empty: Database, data: bytes) -> None:
    with pytest.raises(RegistryError, match="is no row of a registry"):
        load(empty, data)


def test_a_whole_database_has_no_faults(full: Database) -> None:
    with full.read() as session:
        assert faults(session) == []


def test_a_row_that_points_nowhere_is_a_fault(full: Database) -> None:
    with full.write() as session:
        session.execute(text("PRAGMA defer_foreign_keys=ON"))
    raw = full._engine.raw_connection()
    raw.execute("PRAGMA foreign_keys=OFF")
    raw.execute("DELETE FROM versions WHERE number = 1")
    raw.close()
    with full.read() as session:
        assert faults(session) == ["row 1 of table aliases points at no row of versions"]
