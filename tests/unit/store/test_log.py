import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from services import Postgres
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from pulmo.core.receipt import Receipt
from pulmo.core.wire import ModelName
from pulmo.errors import ConfigError, NotFoundError, RegistryError
from pulmo.store.database import open_database
from pulmo.store.log import SCHEMA, LogBase, PredictionRow, SqlReceipts, find_receipt
from pulmo.store.schema import Schema


@contextmanager
def opened(url: str, schema: Schema | None = SCHEMA) -> Iterator[Session]:
    with closing(open_database(url, schema=schema)) as database, database.read() as session:
        yield session


def made(**changes: object) -> Receipt:
    values = {
        "id": uuid.uuid4().hex,
        "at": datetime.now(UTC),
        "model": ModelName(name="toy", version="v3", digest="0" * 64),
        "input_sha256": "1" * 64,
        "pixels_sha256": "2" * 64,
        "prediction": "A",
        "probability": 0.75,
        "probabilities": {"A": 0.75, "B": 0.25},
        "decision": "accept",
        **changes,
    }
    return Receipt.model_validate(values)


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> str:
    return postgres.empty()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/logs/log.db"
    return str(request.getfixturevalue("server"))


def test_a_receipt_comes_back_as_it_was_written(url: str) -> None:
    plain = made()
    full = made(
        prediction=None,
        decision="refer",
        reasons=("unlike", "näher"),
        distance=0.25,
        statistics={"brightness": 0.5},
        embedding=b"\x00\xff\x01\x02",
        at=datetime.now(UTC) - timedelta(days=400),
    )
    log = SqlReceipts(url)
    log.write([plain, full])
    log.close()
    assert [find_receipt(url, one.id) for one in (plain, full)] == [plain, full]
    with pytest.raises(NotFoundError, match="no receipt nowhere"):
        find_receipt(url, "nowhere")


def test_a_batch_that_was_written_already_changes_nothing(url: str) -> None:
    log, batch = SqlReceipts(url), [made() for _ in range(3)]
    log.write(batch[:2])
    log.write(batch)
    with opened(url) as session:
        found = select(PredictionRow.id).order_by(PredictionRow.number)
        ids = [one for one in session.scalars(found) if one in {r.id for r in batch}]
    log.close()
    assert ids == [receipt.id for receipt in batch]


def test_several_servers_may_write_at_once(url: str) -> None:
    batches = [[made() for _ in range(50)] for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        logs = [SqlReceipts(url) for _ in batches]
        list(pool.map(lambda job: job[0].write(job[1]), zip(logs, batches, strict=True)))
    for log, batch in zip(logs, batches, strict=True):
        log.close()
        assert find_receipt(url, batch[-1].id) == batch[-1]


def test_tables_and_migrations_agree(url: str) -> None:
    log = SqlReceipts(url)
    log.write([made()])
    log.close()
    assert ScriptDirectory(str(SCHEMA.migrations)).get_current_head() == SCHEMA.head
    with opened(url) as session:
        options = {"version_table": SCHEMA.stamp}
        context = MigrationContext.configure(session.connection(), opts=options)
        assert compare_metadata(context, LogBase.metadata) == []


def test_a_registry_and_a_log_may_share_a_database(server: str) -> None:
    for _ in range(2):
        with closing(SqlReceipts(server)) as log:
            log.write([made()])
        with opened(server, schema=None) as session:
            assert session.scalar(text("SELECT count(*) FROM models")) == 0


def test_a_database_that_failed_is_opened_anew(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("in the way", encoding="utf-8")
    log, receipt = SqlReceipts(f"sqlite:///{folder}/log.db"), made()
    with pytest.raises(RegistryError, match="cannot be made"):
        log.write([receipt])
    folder.unlink()
    log.write([receipt])
    assert find_receipt(f"sqlite:///{folder}/log.db", receipt.id) == receipt


@pytest.mark.parametrize(
    "bad", ["log.db", "sqlite://", "mysql+pymysql://host/name", "postgresql://h:x/n"]
)
def test_a_url_that_names_no_log_is_a_mistake_of_configuration(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"PULMO_LOG_URL|names no file"):
        SqlReceipts(bad)


def test_where_nothing_was_logged_the_reader_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no log of predictions .* `pulmo serve` makes one"):
        find_receipt(f"sqlite:///{tmp_path}/log.db", "x")
