"""Every command that changes a registry, killed or refused at each call that changes something.

A run that is not disturbed is recorded by strace. Then each recorded call that writes below the
registry's folder is the last one of a run of its own: once the process is killed as it enters the
call, once the call fails with ENOSPC, once with EIO. On Postgres the process is killed at each
send, and each third send fails. Processes are forked from this one, which has everything imported,
so a trace holds the command alone.

Where one site is called many times in a row (the pages of one SQLite transaction), the first two
calls and the last are disturbed. Every other call is disturbed wherever it occurs.

Only one thing is made quick: `stage` does not run its suite, it is handed the passing verdict that
the suite would have brought. Everything that `stage` does to the registry is done for real.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import pytest
from services import postgres
from sqlalchemy import create_engine, text

from pulmo.config.compose import compose
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle, verify
from pulmo.core.ports import PRODUCTION, Check, ModelRef, Registry, Verdict, Version
from pulmo.errors import NotFoundError, PulmoError, RefusedError
from pulmo.jobs import release
from pulmo.registry.archive import Archive
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.upkeep import Upkeep, check_archive, open_upkeep
from pulmo.store.database import open_database
from pulmo.store.dump import dump_rows, load_rows
from pulmo.store.tables import Base

WORKERS = 2
ROUNDS = 5
NAME = "toy"
CONFIG = compose(["data=phantom", f"registry.name={NAME}", "gate.promotions_per_day=null"])
SUITE = release.suite_digest(CONFIG)
BY = {"actor": "ada", "reason": "because"}

WRITES = ("write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "fallocate")
SYNCS = ("fsync", "fdatasync")
NAMES = ("openat", "mkdir", "rename", "unlink", "unlinkat", "rmdir", "link", "symlink", "chmod")
CALLS = (*WRITES, *SYNCS, *NAMES)
DISTURBED = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
SEVERED = ("signal=SIGKILL", "error=EIO")
DONE, REFUSED, CRASHED = 0, 3, 70


@dataclass(frozen=True)
class Home:
    """A registry: its files below `folder`, its rows there too or in a Postgres database."""

    folder: Path
    database: str | None = None

    @property
    def urls(self) -> tuple[str, str]:
        rows = self.database or f"sqlite:///{self.folder}/registry.db"
        return rows, str(self.folder / "bundles")

    @contextmanager
    def registry(self, *, read_only: bool = False) -> Iterator[LocalRegistry]:
        opened = open_registry(*self.urls, read_only=read_only)
        yield opened
        opened.close()

    @contextmanager
    def upkeep(self, *, read_only: bool = False) -> Iterator[Upkeep]:
        opened = open_upkeep(*self.urls, read_only=read_only)
        yield opened
        opened.close()


@dataclass(frozen=True)
class Case:
    """One disturbed run: the `when`-th `call` of a command, and what happens to it."""

    command: str
    call: str
    when: int
    disturbed: str
    site: str


def register(home: Home) -> None:
    with home.registry() as registry:
        registry.register(made(home, "new"), actor="ada")


def stage(home: Home) -> None:
    release.judge = passed  # type: ignore[assignment]
    with home.registry() as registry:
        release.stage(registry, str(made(home, "staged")), CONFIG, Settings(), **BY)


def promote(home: Home) -> None:
    with home.registry() as registry:
        registry.promote(NAME, 2, suite_digest=SUITE, **BY)


def rollback(home: Home) -> None:
    with home.registry() as registry:
        registry.rollback(NAME, to=None, **BY)


def delete(home: Home) -> None:
    with home.registry() as registry:
        registry.delete(NAME, 3, **BY)


def gc(home: Home) -> None:
    with home.upkeep() as upkeep:
        upkeep.collect()


def restore(home: Home) -> None:
    archive = checked(home.folder.parent / "backup.tar")
    with home.upkeep() as upkeep:
        upkeep.restore(archive)


@lru_cache
def checked(path: Path) -> Archive:
    """The archive, checked once for all: the check happens before anything is changed."""
    return check_archive(path)


def backup(home: Home) -> None:
    with home.upkeep(read_only=True) as upkeep:
        upkeep.backup(home.folder / "backup.tar")


COMMANDS: dict[str, Callable[[Home], None]] = {
    one.__name__: one for one in (register, stage, promote, rollback, delete, gc, restore, backup)
}
# What a command says that is repeated though it had been done: then nothing is left to do.
ALREADY = {
    "stage": (RefusedError, "in production already"),
    "promote": (RefusedError, "in production already"),
    "rollback": (RefusedError, "no earlier version is left"),
    "delete": (NotFoundError, "there is no toy:v3"),
}


def made(home: Home, name: str) -> Path:
    return home.folder.parent / "made" / name


def passed(registry: Registry, version: Version, *_: object) -> Verdict:
    """A passing verdict beside the present champion."""
    champion = next((v for v in registry.versions(NAME) if PRODUCTION in v.aliases), None)
    verdict = Verdict(
        name=NAME,
        model_digest=version.model_digest,
        suite_digest=SUITE,
        champion_digest=champion.model_digest if champion else None,
        passed=True,
        checks=[Check("test_it", True, "fine")],
        data_digest="0" * 64,
    )
    return registry.record_verdict(verdict)


def furnish(home: Home) -> None:
    """v1 in production after v0, v2 tested, v3 to delete, an orphan and a leftover to collect."""
    with home.registry() as registry:
        for number in range(5):
            version = registry.register(made(home, f"v{number}"), actor="ada")
            if number < 3:
                passed(registry, version)
            if number < 2:
                registry.promote(NAME, number, suite_digest=SUITE, **BY)
            if number == 1:
                with home.upkeep() as upkeep:
                    upkeep.backup(home.folder.with_name("backup.tar"))
        registry.delete(NAME, 4, **BY)
    leftover = home.folder / "bundles" / ".damaged-0"
    leftover.mkdir()
    (leftover / "model.onnx").write_bytes(b"torn")


# ── one disturbed run ──────────────────────────────────────────────────────────────────────────


def run_traced(home: Home, command: str, *strace: str) -> tuple[int, list[str]]:
    """Run a command in a child under strace: how it ended, and its calls in order."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)
        os._exit(attempt(home, command))
    os.close(reading)
    trace = home.folder.with_suffix(".trace")
    arguments = ["strace", "-y", "-qq", "-s", "0", "-o", str(trace), "-p", str(child), *strace]
    with subprocess.Popen(arguments) as tracer:
        status = Path(f"/proc/{child}/status")
        while "TracerPid:\t0" in status.read_text():
            time.sleep(0.002)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.wait()
    return code, [line for line in trace.read_text().splitlines() if "(" in line]


def attempt(home: Home, command: str) -> int:
    try:
        COMMANDS[command](home)
    except PulmoError as error:
        home.folder.with_suffix(".said").write_text(str(error))
        return REFUSED
    except BaseException:
        home.folder.with_suffix(".said").write_text(traceback.format_exc())
        return CRASHED
    return DONE


def repeat(home: Home, command: str) -> None:
    error, word = ALREADY.get(command, (RefusedError, "never said"))
    try:
        COMMANDS[command](home)
    except error as said:
        if word not in str(said):
            raise


def check(home: Home, command: str) -> object:
    """One valid model is in production, or a restored registry is empty yet; nothing is damaged.

    What the registry holds: versions with aliases, what was in production, bundles.
    """
    if command == "restore" and not exists(home):
        return None
    with home.registry(read_only=True) as registry:
        if command == "restore" and registry.names() == []:
            return None
        versions = registry.versions(NAME)
        champions = [version for version in versions if PRODUCTION in version.aliases]
        assert len(champions) == 1
        folder = registry.fetch(ModelRef(NAME, version=champions[0].number))
        assert verify(folder).info.model_digest == champions[0].model_digest
        verdicts = registry.verdicts(NAME, champions[0].model_digest)
        assert any(verdict.passed for verdict in verdicts)
        production = [m.after for m in registry.history(NAME) if m.alias == PRODUCTION]
    with home.upkeep(read_only=True) as upkeep:
        assert [finding for finding in upkeep.verify() if finding.damage] == []
    if (file := home.folder / "backup.tar").exists():
        check_archive(file)
    files = {path.name for path in (home.folder / "bundles").iterdir()}
    rows = [(version.number, version.bundle_digest, version.aliases) for version in versions]
    return rows, production, sorted(name for name in files if not name.startswith("."))


def exists(home: Home) -> bool:
    try:
        with home.registry(read_only=True):
            return True
    except NotFoundError:
        return False


# ── the whole matrix of one kind of registry ───────────────────────────────────────────────────


@dataclass(frozen=True)
class Matrix:
    """How registries of one kind are made anew, and which calls of theirs are disturbed."""

    start: Path  # a furnished registry's files
    server: str | None = None  # a Postgres server
    rows: tuple[bytes, ...] = ()  # of the furnished registry there

    @contextmanager
    def fresh(self, command: str) -> Iterator[Home]:
        """The starting point of a command, with a name of its own."""
        folder = self.start.with_name(f"run-{uuid.uuid4().hex[:12]}")
        database = None
        if self.server:
            database = own_database(self.server, os.getpid())
            reset(database, None if command == "restore" else self.rows)
        if command != "restore":
            shutil.copytree(self.start, folder)
        yield Home(folder, database)
        for path in folder.parent.glob(f"{folder.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def sites(self, command: str) -> tuple[list[Case], object, int]:
        """Every case of a command, from a run that nobody disturbs; its end and its renames."""
        with self.fresh(command) as home:
            calls = ("sendto",) if self.server else CALLS
            code, lines = run_traced(home, command, "-e", f"trace={','.join(calls)}")
            assert code == DONE, (command, code, lines[-3:])
            renames = require_synced(lines)
            counted: Counter[str] = Counter()
            found = []
            for line in lines:
                call = line.partition("(")[0]
                counted[call] += 1
                if site := changes(line, home.folder):
                    found.append((call, counted[call], site))
            end = check(home, command)
            repeat(home, command)
            assert check(home, command) == end
        cases = [
            Case(command, call, when, how, site)
            for call, when, site in chosen(found)
            for how in (DISTURBED if site != "send" else DISTURBED[:1] if when % 3 else SEVERED)
        ]
        return cases, end, renames

    def disturb(self, case: Case, end: object) -> tuple[str, int]:
        """Run one case and what must hold after it: the site that was hit and the exit code."""
        with self.fresh(case.command) as home:
            inject = f"inject={case.call}:{case.disturbed}:when={case.when}"
            tracing = ("-e", f"trace={case.call}", "-e", inject)
            code, lines = run_traced(home, case.command, *tracing)
            try:
                hit = lines[case.when - 1]
                killed = case.disturbed == "signal=SIGKILL"
                assert code == -9 if killed else code in (DONE, REFUSED), (code, lines[-1])
                check(home, case.command)
                repeat(home, case.command)
                assert check(home, case.command) == end
            except Exception as error:
                said = home.folder.with_suffix(".said")
                told = said.read_text() if said.exists() else ""
                return f"FAILED {case} {told}\n{traceback.format_exc()}{error!r}", code
            return changes(hit, home.folder) or "nothing", code


def administer(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@lru_cache
def own_database(server: str, process: int) -> str:
    """A database for one process, made once."""
    administer(f"{server}/postgres", f'CREATE DATABASE "{process}"')
    return f"{server}/{process}"


def reset(url: str, rows: tuple[bytes, ...] | None) -> None:
    """Let a database hold these rows alone, or not even tables."""
    if rows is None:
        administer(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return
    opened = open_database(url)
    with opened.write() as session:
        session.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)} CASCADE"))
        load_rows(session, rows)
    opened.close()


def changes(line: str, folder: Path) -> str | None:
    """What a call changes below a folder, with the digests and random names left out."""
    call, _, rest = line.partition("(")
    if call == "sendto":
        return "send"
    opened = call == "openat" and not re.search(r"O_CREAT|O_TRUNC|O_WRONLY|O_RDWR", rest)
    if call not in CALLS or opened or str(folder) not in rest:
        return None
    where = re.sub(r"[0-9a-f]{8,64}", "#", rest.partition(str(folder))[2])
    path = re.split(r'[>,"]', where)[0]
    return f"{call} {path or '.'}"


def chosen(found: list[tuple[str, int, str]]) -> Iterator[tuple[str, int, str]]:
    """Of equal sites in a row the first two and the last."""
    for site, group in groupby(found, key=lambda one: one[2]):
        row = list(group)
        yield from row if site == "send" or len(row) < 4 else (row[0], row[1], row[-1])


def require_synced(lines: list[str]) -> int:
    """Whatever is renamed was forced to the disk before, and the folder of its name after."""
    dirty: set[str] = set()
    unnamed: set[str] = set()
    renames = 0
    for line in lines:
        call, _, rest = line.partition("(")
        paths = re.findall(r'[<"](/[^>"]*)', rest)
        if call in WRITES and paths:
            dirty.add(paths[0])
        elif call in SYNCS:
            dirty.discard(paths[0])
            unnamed.discard(paths[0])
        elif call == "rename" and " = 0" in rest:
            renames += 1
            assert [one for one in dirty if one.startswith(paths[0])] == [], line
            unnamed.add(str(Path(paths[1]).parent))
    assert unnamed == set(), "the folder of a new name was not forced to the disk"
    return renames


def run_matrix(matrix: Matrix, command: str) -> str:
    """Every case of one command; what was seen, in a line."""
    checked(matrix.start.with_name("backup.tar"))
    began = time.monotonic()
    cases, end, renames = matrix.sites(command)
    wanted = {(case.disturbed, case.site) for case in cases}
    missed, found, ran = cases, [], 0
    # Files that the interpreter opens beside ours shift the count now and then; folders are listed
    # in no certain order, so a removal may hit another file's site. What was missed is tried again.
    for _ in range(ROUNDS):
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
            seen = list(pool.map(matrix.disturb, missed, [end] * len(missed), chunksize=4))
        failed = [site for site, _ in seen if site.startswith("FAILED")]
        assert failed == [], f"{len(failed)} of {len(missed)}\n" + "\n".join(failed[:5])
        wanted -= {(case.disturbed, site) for (site, _), case in zip(seen, missed, strict=True)}
        found += seen
        ran += len(missed)
        if not wanted:
            break
        again, _, _ = matrix.sites(command)
        missed = [case for case in again if (case.disturbed, case.site) in wanted]
    assert wanted == set()
    codes = Counter(code for _, code in found)
    return (
        f"{command}: {len({case.site for case in cases})} sites, {ran} disturbed runs "
        f"({codes[-9]} killed, {codes[REFUSED]} refused, {codes[DONE]} done nevertheless) "
        f"in {time.monotonic() - began:.0f} s"
        + (f"; {renames} renames, each after its fsync" if not matrix.server else "")
    )


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory where there is one: a real disk's fsync would cost minutes."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pulmo-", dir=memory if memory.is_dir() else None))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)  # the driver reads all of them at each start
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(place: Path, make_bundle: Callable[..., Bundle]) -> Path:
    """Bundles to register, and the files of the furnished registry."""
    for name in ("v0", "v1", "v2", "v3", "v4", "new", "staged"):
        make_bundle(place / "made" / name, name=NAME, weights=name.encode())
    return place / "start"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_registry_survives_every_kill_and_every_failing_call(
    start: Path, command: str, tell: Callable[[str], None]
) -> None:
    furnish(Home(start))
    tell(f"SQLite    {run_matrix(Matrix(start), command)}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as made:
        yield made.empty().rpartition("/")[0].replace("postgresql:", "postgresql+pg8000:")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_registry_on_postgres_survives_every_kill_and_every_failing_send(
    start: Path, server: str, command: str, tell: Callable[[str], None]
) -> None:
    home = Home(start, own_database(server, os.getpid()))
    reset(home.urls[0], ())
    furnish(home)
    opened = open_database(home.urls[0], read_only=True)
    with opened.read() as session:
        rows = tuple(dump_rows(session))
    opened.close()
    tell(f"Postgres  {run_matrix(Matrix(start, server, rows), command)}")
