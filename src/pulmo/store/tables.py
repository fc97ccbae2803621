"""The tables of the registry database: versions, aliases, history, verdicts, events and jobs."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Document = dict[str, Any]


class UtcTime(TypeDecorator[datetime]):
    """A moment: aware on both sides, UTC in the database (SQLite itself keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; raises ValueError for a time without a zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """To an aware UTC time."""
        if value is None:
            return None
        moment: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC)


class Base(DeclarativeBase):
    """The root of the tables; constraints have names, so that migrations can reach them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcTime(), Document: JSON(), list[Document]: JSON()}


class ModelRow(Base):
    """A model's name. Its row is what writers of this model lock, and counts its versions."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    next_number: Mapped[int] = mapped_column(default=0)


class VersionRow(Base):
    """One registered version; `score` is null where the metric is undefined."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("name", "number"), UniqueConstraint("name", "model_digest"))

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    number: Mapped[int]
    model_digest: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64), index=True)
    score: Mapped[float | None] = mapped_column(Double)
    metric: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class DeletionRow(Base):
    """Append-only: a version that was forgotten, by whom and why."""

    __tablename__ = "deletions"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    number: Mapped[int]
    model_digest: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class LineageRow(Base):
    """Append-only: one origin of a model digest, by the bundle that told it."""

    __tablename__ = "lineages"
    __table_args__ = (
        UniqueConstraint("name", "bundle_digest"),
        Index(None, "name", "model_digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    model_digest: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    document: Mapped[Document]
    actor: Mapped[str]
    at: Mapped[datetime]


class AliasRow(Base):
    """Where an alias points now; the foreign key keeps its version from vanishing."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
    )

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int]


class MoveRow(Base):
    """Append-only: one move of an alias."""

    __tablename__ = "history"
    __table_args__ = (Index(None, "name", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    alias: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(16))
    before: Mapped[int | None]
    after: Mapped[int | None]
    actor: Mapped[str]
    reason: Mapped[str]
    evidence: Mapped[Document]
    at: Mapped[datetime]


class EventRow(Base):
    """One event to deliver, written in the transaction of what it tells; `id` gives the order."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "delivered_at", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[Document]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class DeliveryRow(Base):
    """One event on its way to one target: waiting, delivered or dead; `claim` is who sends it."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "target"),
        Index(None, "state", "target", "name"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("outbox.id"))
    target: Mapped[str] = mapped_column(String(512))
    name: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime]
    claim: Mapped[str | None] = mapped_column(String(36))
    ended_at: Mapped[datetime | None]
    error: Mapped[str | None]


class JobRow(Base):
    """What an event asks for, once a key: waiting, running, or how it ended."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "state", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(512), unique=True)
    name: Mapped[str] = mapped_column(String(64))
    payload: Mapped[Document]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime]
    claim: Mapped[str | None] = mapped_column(String(36))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    detail: Mapped[str | None]


class VerdictRow(Base):
    """Append-only: what the staged tests and the gate said."""

    __tablename__ = "verdicts"
    __table_args__ = (Index(None, "name", "model_digest", "suite_digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("models.name"))
    model_digest: Mapped[str] = mapped_column(String(64))
    suite_digest: Mapped[str] = mapped_column(String(64))
    champion_digest: Mapped[str | None] = mapped_column(String(64))
    passed: Mapped[bool]
    checks: Mapped[list[Document]]
    data_digest: Mapped[str] = mapped_column(String(64))
    details: Mapped[Document]
    at: Mapped[datetime]
