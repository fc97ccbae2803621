"""A database by URL: engine, transactions, migrations and errors that a person understands."""

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from pulmo.config.settings import shown
from pulmo.errors import ConfigError, NotFoundError, RegistryError
from pulmo.store.postgres import with_driver, words
from pulmo.store.schema import Schema, is_sqlite, migrate, require_head
from pulmo.store.tables import Base

HEAD = "0002"  # the newest file in migrations/versions
BUSY_SECONDS = 60.0

_MIGRATIONS = Path(__file__).parent / "migrations"
# What SQLite and the drivers say → what a person can do about it.
_ADVICE = {
    "no space left": "its disk is full: make room and repeat the command",
    "disk is full": "its disk is full: make room and repeat the command",
    "locked": "other processes kept it locked too long: repeat the command",
    "readonly": "it cannot be written: check the rights of the file and of its folder",
    "unable to open": "it cannot be opened: check the path and the rights of its folder",
    "not a database": "the file is no SQLite database: restore it from a backup",
    "malformed": "the file is damaged: restore it from a backup",
    "disk i/o error": "its disk failed to read or write: check the disk and its free space",
    "could not connect": "the server cannot be reached: check the address and that it runs",
    "can't create a connection": "the server cannot be reached: check the address and that it runs",
    "connection refused": "the server cannot be reached: check the address and that it runs",
}


def _registry() -> Schema:
    return Schema(
        holds="registry",
        maker="`pulmo train --stage` makes one",
        variable="PULMO_REGISTRY_URL",
        metadata=Base.metadata,
        migrations=_MIGRATIONS,
        head=HEAD,
        stamp="alembic_version",
        busy_s=BUSY_SECONDS,
    )


class Database:
    """Transactions on one database; safe to share between threads, made by `open_database`."""

    def __init__(self, engine: Engine, *, read_only: bool) -> None:
        self._label = shown(engine.url.render_as_string(hide_password=True))
        self._engine = engine
        self._read_only = read_only
        # One snapshot a transaction; SQLite's WAL gives it without asking.
        snapshot = {} if is_sqlite(engine) else {"isolation_level": "REPEATABLE READ"}
        self._reader = engine.execution_options(**snapshot)
        self._writer = engine.execution_options(pulmo_begin="BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database. Raises RegistryError."""
        with self._session(self._reader) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are all kept or, after any exception, all dropped.

        On SQLite one writer runs at a time; elsewhere the caller locks the rows it depends on.
        Raises RegistryError.
        """
        if self._read_only:
            raise RegistryError(f"{self._label} was opened for reading alone")
        with self._session(self._writer) as session:
            yield session

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        with _explained(self._label, engine), Session(engine) as session, session.begin():
            with _reached(self._label):
                session.connection()  # begins now, not at the first statement
            yield session


def open_database(url: str, *, read_only: bool = False, schema: Schema | None = None) -> Database:
    """Open the database at `url` (`sqlite:///path`, `postgresql+pg8000://…`).

    For writing it is made and brought to the newest schema first, which is safe when many
    processes do so at once; read-only it must be there. Raises ConfigError for an URL that is not
    understood and RegistryError for a database that cannot be used.
    """
    schema = schema or _registry()
    target = parse_url(url, schema.variable)
    label = shown(target.render_as_string(hide_password=True))
    if target.get_backend_name() == "sqlite":
        target = _prepare_file(target, schema, read_only)
    engine = _make_engine(target, label, schema.busy_s)
    try:
        with _explained(label, engine), _reached(label):
            if read_only:
                with engine.connect() as connection:
                    require_head(connection, label, schema)
            else:
                migrate(engine, label, schema)
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, read_only=read_only)


def parse_url(url: str, variable: str) -> URL:
    """A database's URL, which the environment variable `variable` gives. Raises ConfigError."""
    try:
        target = make_url(url)
    except (ArgumentError, ValueError) as error:  # the second for a port that is no number
        raise ConfigError(
            f"the database URL ({variable}) is not understood: write "
            "sqlite:///folder/name.db or postgresql+pg8000://user@host/name"
        ) from error
    target = with_driver(target)
    if target.get_backend_name() == "sqlite" and target.database in (None, "", ":memory:"):
        raise ConfigError(f"the database URL {url} names no file: write sqlite:///folder/name.db")
    return target


def _prepare_file(target: URL, schema: Schema, read_only: bool) -> URL:
    """The URL with an absolute path; a writer's folder is made, a reader's file must be there."""
    path = Path(str(target.database)).absolute()
    if read_only:
        if not path.is_file():
            raise NotFoundError(f"there is no {schema.holds} at {path} yet: {schema.maker}")
        _undo_interrupted(path, schema.busy_s)
        return URL.create("sqlite", database=path.as_uri(), query={"mode": "ro", "uri": "true"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _enter_wal(path, schema.busy_s)
    except OSError as error:
        raise RegistryError(f"the folder of {path} cannot be made: {error.strerror}") from error
    except sqlite3.Error as error:
        raise RegistryError(_explain(str(path), error)) from error
    return URL.create("sqlite", database=str(path))


def _undo_interrupted(path: Path, busy_s: float) -> None:
    """Undo what was cut off before the database came to WAL: who only reads cannot do so."""
    if path.with_name(f"{path.name}-journal").exists():
        connection = sqlite3.connect(path, timeout=busy_s)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.Error):
            connection.execute("SELECT name FROM sqlite_master")  # where it fails, readers say why


def _enter_wal(path: Path, busy_s: float) -> None:
    """Switch a database to write-ahead logging; once done it stays with the file."""
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    deadline = time.monotonic() + busy_s
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            # Of several first openers SQLite turns some away at once, whatever the timeout says.
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    finally:
        connection.close()


def _make_engine(target: URL, label: str, busy_s: float) -> Engine:
    sqlite = target.get_backend_name() == "sqlite"
    options: dict[str, Any] = {} if sqlite else {"pool_pre_ping": True}
    if sqlite or target.drivername.endswith("+pg8000"):
        options["connect_args"] = {"timeout": busy_s}
    try:
        engine = create_engine(target, json_serializer=_dump, **options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(f"{label} needs a driver that is not installed: {error}") from error
    if sqlite:
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # the driver would begin too late and never IMMEDIATE
    for pragma in ("foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer that begins by reading could not be upgraded while another one writes.
    connection.exec_driver_sql(connection.get_execution_options().get("pulmo_begin", "BEGIN"))


_strict = json.JSONEncoder(allow_nan=False).encode


def _dump(value: object) -> str:
    try:
        return _strict(value)
    except ValueError:
        return _strict(_finite(value))


def _finite(value: object) -> object:
    """NaN and infinities become null: JSON has no word for them and Postgres refuses Python's."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextlib.contextmanager
def _explained(label: str, engine: Engine) -> Iterator[None]:
    try:
        yield
    except engine.dialect.loaded_dbapi.Error as error:  # while a connection is made ready or reset
        raise RegistryError(_explain(label, error)) from error
    except DBAPIError as error:
        raise RegistryError(_explain(label, error.orig or error)) from error
    except SQLAlchemyError as error:
        raise RegistryError(_explain(label, getattr(error, "orig", None) or error)) from error


@contextlib.contextmanager
def _reached(label: str) -> Iterator[None]:
    """For connections being made: there a driver lets the errors of its socket through."""
    try:
        yield
    except OSError as error:
        raise RegistryError(_explain(label, error)) from error


def _explain(label: str, error: BaseException) -> str:
    said = words(error)
    for sign, advice in _ADVICE.items():
        if sign in said.lower():
            return f"the database {label} cannot be used, {advice} ({said})"
    return f"the database {label} did not do what was asked: {said}"
