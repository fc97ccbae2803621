"""Twenty thousand requests, each with its receipt, leave no trace in memory or descriptors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
from served import PNG, descriptors, memory, serving
from sqlalchemy import func, select

from pulmo.core.bundle import Bundle
from pulmo.store.database import open_database
from pulmo.store.log import SCHEMA, PredictionRow

WARM_UP, MEASURED = 3_000, 20_000


def test_twenty_thousand_requests_leave_no_trace(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    picture = grey_png(5)

    def ask(url: str, count: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(count):
                assert client.post("/predict", content=picture, headers=PNG).status_code == 200

    with (
        serving(toy_bundle.path, tmp_path) as (process, url),
        ThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(lambda _: ask(url, WARM_UP // 2), range(2)))
        before, opened = memory(process), descriptors(process)
        list(pool.map(lambda _: ask(url, MEASURED // 2), range(2)))
        after, still = memory(process), descriptors(process)
        figures = httpx.get(f"{url}/metrics").text
        process.terminate()
        assert process.wait(30) == 143
    log = f"sqlite:///{tmp_path}/models/log.db"
    opened_log = closing(open_database(log, read_only=True, schema=SCHEMA))
    with opened_log as database, database.read() as session:
        kept = session.scalar(select(func.count()).select_from(PredictionRow))
    tell(
        f"{MEASURED:,} requests: {before:.1f} → {after:.1f} MiB, {opened} → {still} "
        f"descriptors, {kept:,} receipts"
    )
    assert after - before <= 8
    assert abs(still - opened) <= 2
    assert kept == WARM_UP + MEASURED
    assert "pulmo_receipts_lost_total 0.0" in figures.splitlines()
