import socket
import sqlite3
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from pulmo.errors import ConfigError, RegistryError
from pulmo.store import database
from pulmo.store.database import Database, open_database
from pulmo.store.tables import Base, EventRow, ModelRow, MoveRow


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'registry.db'}"


@pytest.fixture
def opened(tmp_path: Path) -> Database:
    return open_database(url(tmp_path))


def scalar(opened: Database, statement: str) -> object:
    with opened.read() as session:
        return session.scalar(text(statement))


def test_a_writer_makes_the_folder_and_the_newest_schema(tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path}/a/b/registry.db")
    assert scalar(opened, "SELECT version_num FROM alembic_version") == database.HEAD


def test_the_constant_names_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(database.__file__).parent / "migrations"))
    assert script.get_current_head() == database.HEAD


def test_tables_and_migrations_agree(opened: Database) -> None:
    with opened.read() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_at_head_opens_without_its_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(url(tmp_path)).close()
    monkeypatch.setattr(database, "_MIGRATIONS", tmp_path / "nowhere")
    assert scalar(open_database(url(tmp_path)), "SELECT count(*) FROM models") == 0


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_database(url(tmp_path)), range(8)))
    assert [scalar(one, "SELECT count(*) FROM alembic_version") for one in opened] == [1] * 8


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 2), ("busy_timeout", 60_000)],
)
def test_connections_are_durable_strict_and_patient(
    opened: Database, pragma: str, value: object
) -> None:
    assert scalar(opened, f"PRAGMA {pragma}") == value


def test_an_exception_drops_the_whole_transaction(opened: Database) -> None:
    def fail_late() -> None:
        with opened.write() as session:
            session.add(ModelRow(name="toy", next_number=0))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail_late()
    assert scalar(opened, "SELECT count(*) FROM models") == 0


def test_a_reader_sees_one_state_while_another_writes(opened: Database) -> None:
    with opened.read() as reader:
        assert reader.scalars(select(ModelRow)).all() == []
        with opened.write() as writer:
            writer.add(ModelRow(name="toy", next_number=0))
        assert reader.scalars(select(ModelRow)).all() == []
    assert scalar(opened, "SELECT name FROM models") == "toy"


def test_a_second_writer_that_waits_too_long_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_database(url(tmp_path))
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    second = open_database(url(tmp_path))
    with first.write(), pytest.raises(RegistryError, match="kept it locked"), second.write():
        pass


def test_a_locked_database_cannot_be_switched_to_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RegistryError, match="kept it locked"):
        open_database(url(tmp_path))
    holder.close()


def test_a_full_disk_is_told_and_nothing_is_kept(opened: Database) -> None:
    def overfill() -> None:
        with opened.write() as session:
            session.execute(text("PRAGMA max_page_count=1"))
            session.add_all(ModelRow(name=f"toy-{n}" * 8, next_number=0) for n in range(2000))

    with pytest.raises(RegistryError, match="make room"):
        overfill()
    assert scalar(opened, "SELECT count(*) FROM models") == 0


def test_a_reader_never_writes(tmp_path: Path) -> None:
    open_database(url(tmp_path)).close()
    reader = open_database(url(tmp_path), read_only=True)
    with pytest.raises(RegistryError, match="for reading alone"), reader.write():
        pass
    with pytest.raises(RegistryError, match="cannot be written"), reader.read() as session:
        session.add(ModelRow(name="toy", next_number=0))


def test_a_reader_undoes_what_a_killed_writer_left_before_the_first_start_was_whole(
    tmp_path: Path,
) -> None:
    open_database(url(tmp_path)).close()
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode=DELETE'); c.execute('PRAGMA cache_spill=1')\n"
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN IMMEDIATE')\n"
        "for n in range(200): c.execute('INSERT INTO models VALUES (?, 0)', (f'{n}' * 20,))\n"
        "os._exit(9)\n"
    )
    file = tmp_path / "registry.db"
    assert subprocess.run([sys.executable, "-c", code, file], check=False).returncode == 9
    assert (tmp_path / "registry.db-journal").exists()
    reader = open_database(url(tmp_path), read_only=True)
    assert scalar(reader, "SELECT count(*) FROM models") == 0


def test_a_reader_of_nothing_learns_how_to_begin_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no registry at .* yet: `pulmo train --stage`"):
        open_database(f"sqlite:///{tmp_path}/models/registry.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_an_empty_database_learns_how_to_begin(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "registry.db").execute("CREATE TABLE other (id)").close()
    with pytest.raises(RegistryError, match="holds no registry yet"):
        open_database(url(tmp_path), read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_schema_is_left_alone(opened: Database, tmp_path: Path, read_only: bool) -> None:
    with opened.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RegistryError, match="upgrade Pulmo"):
        open_database(url(tmp_path), read_only=read_only)


def test_a_reader_asks_for_an_older_schema_to_be_renewed(opened: Database, tmp_path: Path) -> None:
    with opened.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(RegistryError, match="older Pulmo"):
        open_database(url(tmp_path), read_only=True)


@pytest.mark.parametrize("bad", ["registry.db", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_names_no_database_is_a_mistake_of_configuration(bad: str) -> None:
    with pytest.raises(ConfigError, match="write sqlite:///folder"):
        open_database(bad)


@pytest.mark.parametrize("foreign", ["nonsense://host/name", "postgresql+asyncpg://host/name"])
def test_a_missing_driver_is_named_without_the_password(foreign: str) -> None:
    with pytest.raises(ConfigError, match="driver that is not installed") as caught:
        open_database(foreign.replace("//", "//user:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "registry.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(RegistryError, match="no SQLite database"):
        open_database(url(tmp_path), read_only=read_only)


def test_a_folder_in_place_of_the_file_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="check the path"):
        open_database(f"sqlite:///{tmp_path}")


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(RegistryError, match=r"folder of .* cannot be made"):
        open_database(f"sqlite:///{tmp_path}/models/registry.db")


def test_an_unknown_fault_keeps_the_database_own_words(opened: Database) -> None:
    with pytest.raises(RegistryError, match="did not do what was asked: no such table: nowhere"):
        scalar(opened, "SELECT * FROM nowhere")


def move(**changes: object) -> MoveRow:
    plain = {"alias": "team", "action": "set", "actor": "me", "reason": "", "evidence": {}}
    return MoveRow(**({"name": "toy", "at": datetime.now(UTC)} | plain | changes))


def add(opened: Database, row: MoveRow | EventRow) -> None:
    with opened.write() as session:
        session.add(ModelRow(name="toy", next_number=0))
        session.flush()
        session.add(row)


def test_times_come_back_aware_and_in_utc(opened: Database) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    add(opened, EventRow(event="e", name="toy", kind="set", payload={}, created_at=noon))
    with opened.read() as session:
        row = session.scalars(select(EventRow)).one()
        assert (row.created_at.isoformat(), row.delivered_at) == ("2026-01-01T10:00:00+00:00", None)


def test_a_time_without_a_zone_is_refused(opened: Database) -> None:
    with pytest.raises(RegistryError, match="has no time zone"):
        add(opened, move(at=datetime(2026, 1, 1)))  # noqa: DTZ001 - the fault on trial


def test_numbers_that_json_lacks_become_null(opened: Database) -> None:
    given = {"nan": float("nan"), "list": (1.5, float("inf")), "word": "x"}
    add(opened, move(evidence=given))
    with opened.read() as session:
        stored = session.scalars(select(MoveRow.evidence)).one()
    assert stored == {"nan": None, "list": [1.5, None], "word": "x"}


def test_documents_that_are_no_json_are_refused(opened: Database) -> None:
    with pytest.raises(RegistryError, match="not JSON serializable"):
        add(opened, move(evidence={"bytes": b""}))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the driver's
def test_a_server_that_closes_the_door_is_told() -> None:
    """It answers the first packet with a reset, which no driver puts into words of its own."""
    pytest.importorskip("pg8000", reason="the group `postgres` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def slam() -> None:
            caller, _ = server.accept()
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(slam)
            with pytest.raises(RegistryError, match=r"the database .* cannot|did not do"):
                open_database(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/x")
            done.result()
