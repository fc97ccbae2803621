"""Receipts in the order of their time, and the drift windows that were judged of them."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

from sqlalchemy import select

from pulmo.core.receipt import DriftWindow, Receipt
from pulmo.errors import NotFoundError, RegistryError
from pulmo.store.database import Database, open_database
from pulmo.store.log import SCHEMA, PredictionRow, WindowRow, adding, to_receipt

_AT_ONCE = 1000  # rows that are fetched together


class SqlWindows:
    """Receipts and drift windows in the log database at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def receipts(self, model_digest: str, since: datetime | None) -> Iterator[Receipt]:
        """The receipts of one model, oldest first, from `since` on. Raises RegistryError."""
        rows = PredictionRow
        wanted = select(rows).where(rows.model_digest == model_digest)
        if since is not None:
            wanted = wanted.where(rows.at >= since)
        wanted = wanted.order_by(rows.at, rows.number).execution_options(yield_per=_AT_ONCE)
        with closing(self._opened()) as database, database.read() as session:
            for row in session.scalars(wanted):
                yield to_receipt(row)

    def judged(self, model_digest: str, bound: float) -> dict[tuple[str, str], DriftWindow]:
        """What was kept of one model's windows under one bound, by first and last receipt."""
        rows = WindowRow
        wanted = select(rows).where(rows.model_digest == model_digest, rows.bound == bound)
        with closing(self._opened()) as database, database.read() as session:
            found = [_window(row) for row in session.scalars(wanted)]
        return {(one.first, one.last): one for one in found}

    def keep(self, windows: Sequence[DriftWindow]) -> None:
        """Keep judged windows; one that is there already is left as it is."""
        if not windows:
            return
        rows = [{**vars(one), "judged_at": datetime.now(UTC)} for one in windows]
        with closing(open_database(self._url, schema=SCHEMA)) as log, log.write() as session:
            session.execute(adding(WindowRow, self._url), rows)

    def _opened(self) -> Database:
        """The log, which must be there; tables of an older Pulmo are renewed."""
        try:
            return open_database(self._url, read_only=True, schema=SCHEMA)
        except NotFoundError:
            raise
        except RegistryError:
            open_database(self._url, schema=SCHEMA).close()
            return open_database(self._url, read_only=True, schema=SCHEMA)


def _window(row: WindowRow) -> DriftWindow:
    return DriftWindow(**{name: getattr(row, name) for name in DriftWindow.__dataclass_fields__})
