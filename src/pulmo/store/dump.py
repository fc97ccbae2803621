"""All rows of a registry as lines of JSON, equal for equal rows, and back into any database."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    Integer,
    String,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from pulmo.errors import RegistryError
from pulmo.store.tables import Base, UtcTime

MAX_LINE_BYTES = 16 * 2**20

_BATCH = 200
_MAX_INTEGER = 2**31 - 1  # what an INTEGER of Postgres holds
_TABLES = {table.name: table for table in Base.metadata.sorted_tables}  # what others point at first


def dump_rows(session: Session) -> Iterator[bytes]:
    """Every row as `["table", {"column": value}]`, in one order, whatever the database is."""
    for table in _TABLES.values():
        query = select(table).order_by(*table.primary_key.columns)
        for row in session.execute(query).mappings():
            plain = {column.name: _plain(row[column]) for column in table.columns}
            line = json.dumps([table.name, plain], sort_keys=True, separators=(",", ":"))
            yield line.encode() + b"\n"


def load_rows(session: Session, lines: Iterable[bytes]) -> None:
    """Insert the rows of a dump; numbers that are given next follow the highest one.

    Raises RegistryError for anything that `dump_rows` would not have written.
    """
    stream = iter(enumerate(lines, start=1))
    while batch := list(islice(stream, _BATCH)):
        pending: dict[str, list[dict[str, Any]]] = {}
        for number, line in batch:
            name, row = _parse(line, number)
            if name not in pending and pending:
                _insert(session, pending)
            pending.setdefault(name, []).append(row)
        _insert(session, pending)
    _go_on_counting(session)


def is_empty(session: Session) -> bool:
    """Whether no table holds a row."""
    return not any(
        session.scalar(select(func.count()).select_from(table)) for table in _TABLES.values()
    )


def exclude_writers(session: Session, *tables: str) -> None:
    """Keep other transactions from changing these tables until this one ends.

    SQLite does so by itself, for all tables, since a writer begins.
    """
    if session.connection().dialect.name != "sqlite":
        names = ", ".join(_TABLES[name].name for name in sorted(tables))
        session.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))


def faults(session: Session) -> list[str]:
    """What the database finds broken in its own file, one sentence each; a server is not asked."""
    if session.connection().dialect.name != "sqlite":
        return []
    found = [str(line) for line in session.scalars(text("PRAGMA integrity_check(20)"))]
    strays = session.execute(text("PRAGMA foreign_key_check")).all()
    lost = [f"row {row[1]} of table {row[0]} points at no row of {row[2]}" for row in strays]
    return [line for line in found if line != "ok"] + lost


def _insert(session: Session, pending: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in pending.items():
        session.execute(insert(_TABLES[name]), rows)
    pending.clear()


def _parse(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("it is longer than any row")
        name, row = json.loads(line, parse_constant=_refuse_constant)
        table = _TABLES[name]
        if set(row) != set(table.columns.keys()):
            raise ValueError("its columns are others")
        return name, {column.name: _value(column, row[column.name]) for column in table.columns}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RegistryError(f"line {number} is no row of a registry: {error}") from error


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _value(column: Column[Any], value: object) -> object:
    """A value as its column keeps it. Raises ValueError."""
    if value is None and column.nullable:
        return None
    if isinstance(column.type, UtcTime) and isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not _fits(column.type, value):
        raise ValueError(f"{column.name} is not what such a column holds")
    return value


def _fits(kind: TypeEngine[Any], value: object) -> bool:
    match kind, value:
        case (Boolean(), bool()) | (JSON(), dict() | list()) | (Double(), float()):
            return True
        case Integer(), int():
            return not isinstance(value, bool) and abs(value) <= _MAX_INTEGER
        case UtcTime(), datetime():
            return value.tzinfo is not None
        case String(), str():
            value.encode()  # a lone surrogate raises ValueError
            return "\0" not in value and len(value) <= (kind.length or len(value))
    return False


def _refuse_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _go_on_counting(session: Session) -> None:
    """Set the counters behind numbered rows; SQLite looks for the highest number itself."""
    if session.connection().dialect.name != "postgresql":
        return
    for table in _TABLES.values():
        if "id" in table.columns:
            highest = session.scalar(select(func.max(table.c.id)))
            if highest is not None:
                counter = func.pg_get_serial_sequence(table.name, "id")
                session.execute(select(func.setval(counter, highest)))
