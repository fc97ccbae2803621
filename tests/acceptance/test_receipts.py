"""The database for receipts is locked, then full: predictions go on, what is lost is counted."""

import re
import resource
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
from served import Load, serving

from pulmo.core.bundle import Bundle

LOCKED_SECONDS, FULL_SECONDS = 6, 8  # a lock is waited for for five
PAUSE = 0.002  # fewer receipts than may wait come while the database is locked


def figure(url: str, name: str) -> int:
    """A figure that the server tells."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return int(float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]))  # type: ignore[index]


def test_a_locked_and_a_full_database_fail_no_prediction(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    path = tmp_path / "models/log.db"
    with serving(toy_bundle.path, tmp_path) as (process, url):
        with Load(url, grey_png(200), clients=1, pause=PAUSE) as load:
            while not path.exists() or figure(url, "pulmo_receipts_written_total") < 100:
                time.sleep(0.1)
            with sqlite3.connect(path, isolation_level=None) as holder:
                before = len(load.answers)
                holder.execute("BEGIN EXCLUSIVE")
                time.sleep(LOCKED_SECONDS)
                holder.execute("ROLLBACK")
            holder.close()
            locked = len(load.answers) - before
            while figure(url, "pulmo_receipts_waiting") > 200:
                time.sleep(0.1)
            assert figure(url, "pulmo_receipts_lost_total") == 0
            before = len(load.answers)
            limit = path.stat().st_size
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            time.sleep(FULL_SECONDS)
            full = len(load.answers) - before
        waiting = figure(url, "pulmo_receipts_waiting")
        process.terminate()
        assert process.wait(30) == 143
    said = (tmp_path / "server.log").read_text("utf-8")
    with sqlite3.connect(path) as database:
        kept = {row[0] for row in database.execute("SELECT id FROM predictions")}
    database.close()
    missing = {answer[3] for answer in load.answers} - kept
    tell(
        f"{locked:,} answers while the database was locked, all written later; {full:,} while it "
        f"was full, {len(missing):,} of {len(load.answers):,} receipts lost, and told"
    )
    assert load.lost == []
    assert {answer[0] for answer in load.answers} == {200}
    assert min(locked, full) > 0
    assert waiting > 0
    assert len(missing) > 0
    told = [int(number) for number in re.findall(r"^(\d+) receipts are lost", said, re.MULTILINE)]
    assert told[-1] == len(missing)
