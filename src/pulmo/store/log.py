"""The log database: receipts of predictions and drift windows, apart from the registry that no
flood may reach.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    Executable,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pulmo.core.receipt import Receipt
from pulmo.core.wire import ModelName
from pulmo.errors import ConfigError, NotFoundError
from pulmo.store.database import Database, open_database, parse_url
from pulmo.store.schema import Schema
from pulmo.store.tables import Base, UtcTime

VARIABLE = "PULMO_LOG_URL"
BUSY_SECONDS = 5.0


class LogBase(DeclarativeBase):
    """The root of the log's tables."""

    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    type_annotation_map: ClassVar = {datetime: UtcTime()}


class PredictionRow(LogBase):
    """Append-only: one receipt. `number` is the order of writing, `at` when it was answered."""

    __tablename__ = "predictions"
    __table_args__ = (Index(None, "model_digest", "at"),)

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True
    )
    id: Mapped[str] = mapped_column(String(64), unique=True)
    at: Mapped[datetime] = mapped_column(index=True)
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str | None] = mapped_column(String(16))
    model_digest: Mapped[str] = mapped_column(String(64))
    input_sha256: Mapped[str] = mapped_column(String(64), index=True)
    pixels_sha256: Mapped[str] = mapped_column(String(64))
    prediction: Mapped[str | None]
    probability: Mapped[float] = mapped_column(Double)
    probabilities: Mapped[dict[str, float]] = mapped_column(JSON)
    decision: Mapped[str] = mapped_column(String(8))
    reasons: Mapped[list[str]] = mapped_column(JSON)
    distance: Mapped[float | None] = mapped_column(Double)
    statistics: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)


class WindowRow(LogBase):
    """Append-only: one judged window; `first` and `last` are receipts, `document` the report."""

    __tablename__ = "drift_windows"
    __table_args__ = (
        UniqueConstraint("model_digest", "first", "last", "bound"),
        Index(None, "model_digest", "ends"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))
    first: Mapped[str] = mapped_column(String(64))
    last: Mapped[str] = mapped_column(String(64))
    begins: Mapped[datetime]
    ends: Mapped[datetime]
    pictures: Mapped[int]
    p: Mapped[float] = mapped_column(Double)
    bound: Mapped[float] = mapped_column(Double)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    judged_at: Mapped[datetime]


SCHEMA = Schema(
    holds="log of predictions",
    maker="`pulmo serve` makes one",
    variable=VARIABLE,
    metadata=LogBase.metadata,
    migrations=Path(__file__).parent / "log_migrations",
    head="0002",
    stamp="log_version",
    busy_s=BUSY_SECONDS,
)


def adding(table: type[LogBase], url: str) -> Executable:
    """What adds rows to a table of the log at `url` and leaves those alone that are there.

    Raises ConfigError for an URL of another database.
    """
    kind, rows = parse_url(url, VARIABLE).get_backend_name(), cast(Table, table.__table__)
    if kind == "sqlite":
        from sqlalchemy.dialects.sqlite import insert

        return insert(rows).on_conflict_do_nothing()
    if kind == "postgresql":  # takes long to import: servers without it start faster
        from sqlalchemy.dialects.postgresql import insert as insert_there

        return insert_there(rows).on_conflict_do_nothing()
    raise ConfigError(f"{VARIABLE}: write sqlite:///… or postgresql+pg8000://…")


class SqlReceipts:
    """Receipts in the log database at an SQLAlchemy URL, which is opened when it is first needed.

    After any failure it is opened anew. Raises ConfigError for an URL that is not understood.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._insert = adding(PredictionRow, url)
        self._database: Database | None = None

    def write(self, receipts: Sequence[Receipt]) -> None:
        """Keep receipts, all or none; one that is there already is left as it is.

        Raises RegistryError, or what the driver raises where the connection breaks.
        """
        try:
            with self._opened().write() as session:
                session.execute(self._insert, [_row(one) for one in receipts])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every idle connection."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _opened(self) -> Database:
        if self._database is None:
            self._database = open_database(self._url, schema=SCHEMA)
        return self._database


def find_receipt(url: str, receipt_id: str) -> Receipt:
    """The receipt with this id in the log database at `url`. Raises RegistryError."""
    database = open_database(url, read_only=True, schema=SCHEMA)
    try:
        with database.read() as session:
            row = session.scalar(select(PredictionRow).where(PredictionRow.id == receipt_id))
            if row is None:
                raise NotFoundError(f"the log holds no receipt {receipt_id}")
            return to_receipt(row)
    finally:
        database.close()


def _row(receipt: Receipt) -> dict[str, Any]:
    values = receipt.model_dump(exclude={"model"})
    name = receipt.model
    return {
        **values,
        "reasons": list(receipt.reasons),
        "model": name.name,
        "version": name.version,
        "model_digest": name.digest,
    }


def to_receipt(row: PredictionRow) -> Receipt:
    """The receipt that a row keeps."""
    name = ModelName(name=row.model, version=row.version, digest=row.model_digest)
    same = set(Receipt.model_fields) - {"model"}
    return Receipt(model=name, **{field: getattr(row, field) for field in same})
