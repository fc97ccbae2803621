"""Receipts come back in the order of their time, and windows are kept once."""

import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from services import Postgres
from sqlalchemy import text

from pulmo.core.receipt import DriftWindow, Receipt
from pulmo.core.wire import ModelName
from pulmo.errors import NotFoundError
from pulmo.store.database import open_database
from pulmo.store.log import SCHEMA, SqlReceipts, find_receipt
from pulmo.store.windows import SqlWindows

START = datetime(2026, 11, 1, tzinfo=UTC)


def made(minute: int, digest: str) -> Receipt:
    return Receipt(
        id=uuid.uuid4().hex,
        at=START + timedelta(minutes=minute),
        model=ModelName(name="toy", digest=digest),
        input_sha256="1" * 64,
        pixels_sha256="2" * 64,
        probability=0.75,
        probabilities={"A": 0.75, "B": 0.25},
        decision="accept",
    )


def window(digest: str) -> DriftWindow:
    return DriftWindow(
        model="toy",
        model_digest=digest,
        first="a",
        last="b",
        begins=START,
        ends=START + timedelta(hours=1),
        pictures=50,
        p=0.25,
        bound=0.01,
        document={"findings": [{"name": "score", "usual": None, "p": 0.25}]},
    )


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> str:
    return postgres.empty()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("server"))


def test_receipts_of_one_model_come_in_the_order_of_their_time(url: str) -> None:
    digest, other = (uuid.uuid4().hex * 2 for _ in range(2))
    with closing(SqlReceipts(url)) as log:
        log.write([made(3, digest), made(1, digest), made(2, other), made(2, digest)])
    minutes = [one.at.minute for one in SqlWindows(url).receipts(digest, None)]
    assert minutes == [1, 2, 3]
    later = SqlWindows(url).receipts(digest, START + timedelta(minutes=2))
    assert [one.at.minute for one in later] == [2, 3]


def test_a_window_is_kept_once_and_comes_back_as_it_was(url: str) -> None:
    digest = uuid.uuid4().hex * 2
    with closing(SqlReceipts(url)) as log:
        log.write([made(1, digest)])
    log, one = SqlWindows(url), window(digest)
    log.keep([])
    log.keep([one])
    log.keep([replace(one, p=0.5), replace(one, bound=0.05)])
    assert log.judged(digest, 0.01) == {("a", "b"): one}
    assert log.judged(digest, 0.05) == {("a", "b"): replace(one, bound=0.05)}
    assert log.judged("0" * 64, 0.01) == {}


def test_a_log_of_an_older_release_is_renewed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with closing(SqlReceipts(url)) as log:
        log.write([one := made(1, "3" * 64)])
    with closing(open_database(url, schema=SCHEMA)) as database, database.write() as session:
        session.execute(text("DROP TABLE drift_windows"))
        session.execute(text(f"UPDATE {SCHEMA.stamp} SET version_num = '0001'"))
    assert SqlWindows(url).judged("3" * 64, 0.01) == {}
    assert find_receipt(url, one.id) == one


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    log = SqlWindows(f"sqlite:///{tmp_path}/nowhere.db")
    with pytest.raises(NotFoundError, match="no log of predictions"):
        log.judged("0" * 64, 0.01)
    with pytest.raises(NotFoundError):
        list(log.receipts("0" * 64, None))
    assert list(tmp_path.iterdir()) == []
