"""How far the tables of a database have come, and what brings them to the newest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, inspect, text

from pulmo.errors import NotFoundError, RegistryError

_ADVISORY_LOCK = 0x70756C6D6F  # any constant that nobody else takes


@dataclass(frozen=True)
class Schema:
    """What one kind of database holds: its tables, and the migrations that make them.

    `holds` says what it is and `maker` how one is made; `variable` gives its URL. `stamp` is the
    table that says how far they came: two kinds may share one Postgres database. `busy_s` is how
    long a writer waits for another one, and any statement for a server.
    """

    holds: str
    maker: str
    variable: str
    metadata: MetaData
    migrations: Path
    head: str
    stamp: str
    busy_s: float


def is_sqlite(engine: Engine) -> bool:
    """Whether a file stands behind the engine."""
    return engine.dialect.name == "sqlite"


def _revision(connection: Connection, schema: Schema) -> str | None:
    if not inspect(connection).has_table(schema.stamp):
        return None
    statement = text(f"SELECT version_num FROM {schema.stamp}")  # noqa: S608 - our own constant
    revision: str | None = connection.scalar(statement)
    return revision


def require_head(connection: Connection, label: str, schema: Schema) -> None:
    """Raise NotFoundError or RegistryError for a database without the newest tables."""
    revision = _revision(connection, schema)
    if revision is None:
        raise NotFoundError(f"{label} holds no {schema.holds} yet: {schema.maker}")
    _refuse_newer(revision, label, schema)
    if revision != schema.head:
        raise RegistryError(
            f"{label} has the schema of an older Pulmo: any command that writes renews it"
        )


def _refuse_newer(revision: str | None, label: str, schema: Schema) -> None:
    if revision is not None and revision > schema.head:
        raise RegistryError(
            f"{label} was written by a newer Pulmo (schema {revision}, this one knows "
            f"{schema.head}): upgrade Pulmo"
        )


def migrate(engine: Engine, label: str, schema: Schema) -> None:
    """Bring the tables to the newest; safe when many processes do so at once."""
    with engine.connect() as connection:
        if _revision(connection, schema) == schema.head:
            return
    writer = engine.execution_options(pulmo_begin="BEGIN IMMEDIATE")
    with writer.begin() as connection:
        if not is_sqlite(engine):
            connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _ADVISORY_LOCK})
        revision = _revision(connection, schema)
        _refuse_newer(revision, label, schema)
        if revision != schema.head:
            _upgrade(connection, schema)


def _upgrade(connection: Connection, schema: Schema) -> None:
    """Run the missing migrations inside the connection's transaction."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(schema.migrations))

    def missing(revision: Any, context: object) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), script, fn=missing) as environment:
        environment.configure(
            connection=connection, target_metadata=schema.metadata, version_table=schema.stamp
        )
        environment.run_migrations()
