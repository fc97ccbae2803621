"""A hundred ends by SIGTERM under load: whatever was accepted is answered, and has its receipt."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from served import Load, address
from sqlalchemy import select

from pulmo.core.bundle import Bundle
from pulmo.store.database import open_database
from pulmo.store.log import SCHEMA, PredictionRow

ENDS, SIDE_BY_SIDE = 100, 2

# Imports once and forks a server for every line that it reads, a folder: pid, then exit code.
# ONNX Runtime is left to the server: its threads would not survive the fork.
NURSERY = """
import os, sys
import alembic.command, fastapi, prometheus_client, python_multipart, uvicorn
import pulmo.core.decision, pulmo.store.log, pulmo.wiring
from pulmo.main import run
for line in sys.stdin:
    folder = line.strip()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.dup2(os.open("server.log", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["pulmo", "serve", "--model", sys.argv[1], "--port", "0"]
        run()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_hundred_ends_under_load_lose_nothing(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    picture = grey_png(200)

    def ends(lane: int) -> list[tuple[int, float]]:
        nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(toy_bundle.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PULMO_RATE_LIMIT": "off", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with nursery:
            assert nursery.stdin is not None
            rounds = range(lane, ENDS, SIDE_BY_SIDE)
            found = [end(nursery, tmp_path / str(number), picture) for number in rounds]
            nursery.stdin.close()
        return found

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        told = [one for lane in pool.map(ends, range(SIDE_BY_SIDE)) for one in lane]
    answered, longest = sum(count for count, _ in told), max(took for _, took in told)
    tell(
        f"{len(told)} ends, {answered:,} answers, none lost, each with its receipt; "
        f"the longest end took {longest:.1f} s"
    )
    assert len(told) == ENDS


def end(nursery: "subprocess.Popen[str]", folder: Path, picture: bytes) -> tuple[int, float]:
    """One server's life: how many answers it gave, and how long its end took."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    folder.mkdir()
    nursery.stdin.write(f"{folder}\n")
    nursery.stdin.flush()
    pid = int(nursery.stdout.readline())
    with Load(address(folder / "server.log"), picture, clients=3) as load:
        while len(load.answers) < 10 and not load.lost:
            time.sleep(0.01)
        begun = time.perf_counter()
        os.kill(pid, signal.SIGTERM)
        code = int(nursery.stdout.readline())
        took = time.perf_counter() - begun
    said = (folder / "server.log").read_text("utf-8")
    assert (code, load.lost) == (143, []), said
    assert {status for status, *_ in load.answers} == {200}
    url = f"sqlite:///{folder}/models/log.db"
    log = closing(open_database(url, read_only=True, schema=SCHEMA))
    with log as database, database.read() as session:
        kept = set(session.scalars(select(PredictionRow.id)))
    assert {one for *_, one in load.answers} <= kept
    return len(load.answers), took
