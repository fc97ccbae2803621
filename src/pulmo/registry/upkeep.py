"""Keeping a registry: examined, freed of what nobody needs, backed up and restored elsewhere."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pulmo import __version__
from pulmo.core.bundle import FILES, SIGNATURE, SUMS, Bundle, sha256, verify
from pulmo.errors import ModelError, PulmoError, RefusedError, RegistryError
from pulmo.registry.archive import (
    ROWS,
    Archive,
    Entry,
    Manifest,
    entry_of,
    open_archive,
    write_archive,
)
from pulmo.registry.examination import (
    Finding,
    Stored,
    examine_files,
    examine_rows,
    examine_store,
    require_same,
    stored_versions,
)
from pulmo.registry.files import BundleFiles, open_files
from pulmo.registry.inventory import Inventory, Piece, open_inventory
from pulmo.registry.signing import Keys
from pulmo.registry.versions import require_model
from pulmo.store.database import HEAD, Database, open_database
from pulmo.store.dump import MAX_LINE_BYTES, dump_rows, exclude_writers, is_empty, load_rows

TRIES = 5


@dataclass(frozen=True)
class Backup:
    """An archive that was written, read or restored."""

    path: Path
    bytes: int
    versions: int
    bundles: int
    created_at: str
    already: bool = False  # whether the registry held exactly this before


class Upkeep:
    """What is done to a registry as a whole, over its `Database` and its store of files."""

    def __init__(
        self, database: Database, files: BundleFiles, inventory: Inventory, keys: Keys
    ) -> None:
        self._database = database
        self._files = files
        self._inventory = inventory
        self._keys = keys

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()

    def verify(self, name: str | None = None) -> list[Finding]:
        """Hold every byte and row of the registry, or of one model, against the others.

        Files of no version are told too, where the whole registry is asked for.
        """
        # Listed first: a bundle that is registered after this is in no list.
        pieces = self._inventory.pieces() if name is None else []
        with self._database.read() as session:
            if name is not None:
                require_model(session, name)
            found = examine_rows(session, name)
            versions = stored_versions(session, name)
        found += self._still_damaged(examine_files(self._inventory, versions, self._keys))
        return found + examine_store(pieces, {version.bundle_digest for version in versions})

    def collect(self, *, dry_run: bool = False) -> list[Piece]:
        """Remove bundles of no version and leftovers, or only say what would be removed.

        No row of a version can appear meanwhile; whoever stored a bundle for one looks for it
        again in the transaction of its row. What is still being written is left alone.
        """
        if dry_run:
            with self._database.read() as session:
                return self._unreferenced(stored_versions(session))
        with self._database.write() as session:
            exclude_writers(session, "versions")
            gone = self._unreferenced(stored_versions(session))
            for piece in gone:
                self._inventory.remove(piece)
        return gone

    def backup(self, path: Path) -> Backup:
        """Write the rows of one moment and every bundle that they name into one archive.

        Raises RefusedError for a registry that is damaged: nobody could restore it.
        """
        for _ in range(TRIES - 1):
            versions = self._versions()
            try:
                return self._try_backup(path)
            except RefusedError:
                raise
            except (PulmoError, FileNotFoundError):
                if self._versions() == versions:
                    raise  # nobody deleted what was being copied
        return self._try_backup(path)

    def restore(self, archive: Archive) -> Backup:
        """Fill an empty registry from an archive that `check_archive` found whole.

        Raises RefusedError for a registry that holds anything else.
        """
        already = self._require_free(archive)
        for digest in archive.bundles:
            self._store(archive, digest)
        if not already:
            with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
                rows = archive.rows(Path(folder))
                with self._database.write() as session:
                    exclude_writers(session, "models", "versions")
                    if not is_empty(session):
                        raise _not_empty()
                    load_rows(session, _lines(rows))
                    for digest in archive.bundles:  # from here on `gc` must wait
                        if not self._files.holds(digest):
                            self._store(archive, digest)
        return _summary(archive, len(self._versions()), already=already)

    def _still_damaged(self, findings: Iterator[Finding]) -> list[Finding]:
        """Without the findings about versions that were deleted while they were examined."""
        found = list(findings)
        present = {version.label for version in self._versions()} if found else set()
        return [finding for finding in found if finding.where in present]

    def _unreferenced(self, versions: list[Stored]) -> list[Piece]:
        needed = {version.bundle_digest for version in versions}
        return [
            piece
            for piece in self._inventory.pieces()
            if piece.kind == "leftover" or (piece.kind == "bundle" and piece.name not in needed)
        ]

    def _versions(self) -> list[Stored]:
        with self._database.read() as session:
            return stored_versions(session)

    def _try_backup(self, path: Path) -> Backup:
        with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
            rows = Path(folder) / ROWS
            with self._database.read() as session:
                _refuse_damage("the registry", examine_rows(session))
                versions = stored_versions(session)
                with rows.open("wb") as stream:
                    stream.writelines(dump_rows(session))
            entries, sources = [entry_of(ROWS, rows)], [rows]
            for digest in sorted({version.bundle_digest for version in versions}):
                self._files.renew_signature(digest)
                bundle = verify(self._files.fetch(digest))
                _require_named(bundle, versions)
                for name in (*FILES, SUMS, *((SIGNATURE,) if bundle.signature else ())):
                    sources.append(bundle.path / name)
                    entries.append(entry_of(f"bundles/{digest}/{name}", sources[-1]))
            write_archive(path, _manifest(entries), sources)
        return _summary(open_archive(path), len(versions))

    def _require_free(self, archive: Archive) -> bool:
        """Whether the registry holds these rows already; RefusedError where it holds others."""
        with self._database.read() as session:
            if is_empty(session):
                return False
            if sha256(b"".join(dump_rows(session))) == archive.digest_of(ROWS):
                return True
        raise _not_empty()

    def _store(self, archive: Archive, digest: str) -> None:
        with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
            self._files.store(_unpack(archive, digest, Path(folder)))


def open_upkeep(
    database_url: str,
    files_url: str,
    *,
    read_only: bool = False,
    cache: Path | None = None,
    keys: Keys | None = None,
) -> Upkeep:
    """The keeper of the registry that `pulmo.registry.local.open_registry` opens."""
    database = open_database(database_url, read_only=read_only)
    files, inventory = open_files(files_url, cache=cache), open_inventory(files_url)
    return Upkeep(database, files, inventory, keys or Keys())


def check_archive(path: Path) -> Archive:
    """An archive whose every byte was read and whose rows and bundles fit each other.

    It is tried out in a temporary folder; nothing else is written. Raises RegistryError.
    """
    archive = open_archive(path)
    manifest = archive.manifest
    if manifest.registry_schema != HEAD:
        raise RegistryError(
            f"{path} was written by Pulmo {manifest.pulmo} with schema {manifest.registry_schema}, "
            f"this one knows {HEAD}: restore it with that Pulmo, then upgrade"
        )
    versions = _try_rows(archive)
    if sorted({version.bundle_digest for version in versions}) != archive.bundles:
        raise RegistryError(f"{path}: its bundles are not those that its versions name")
    for digest in archive.bundles:
        with tempfile.TemporaryDirectory(prefix="pulmo-") as scratch:
            bundle = _unpack(archive, digest, Path(scratch))
            _require_named(bundle, versions)
    return archive


def _try_rows(archive: Archive) -> list[Stored]:
    """Load the rows into a database of their own and say which versions they hold."""
    with tempfile.TemporaryDirectory(prefix="pulmo-") as scratch:
        rows = archive.rows(Path(scratch))
        database = open_database(f"sqlite:///{scratch}/registry.db")
        try:
            with database.write() as session:
                load_rows(session, _lines(rows))
                _refuse_damage(str(archive.path), examine_rows(session))
                if sha256(b"".join(dump_rows(session))) != archive.digest_of(ROWS):
                    raise RegistryError(f"{archive.path}: its rows are not as Pulmo writes them")
                return stored_versions(session)
        finally:
            database.close()


def _unpack(archive: Archive, digest: str, folder: Path) -> Bundle:
    try:
        return verify(archive.bundle(digest, folder))
    except ModelError as error:
        raise RegistryError(f"{archive.path} holds a damaged bundle, {digest}: {error}") from error


def _require_named(bundle: Bundle, versions: list[Stored]) -> None:
    for version in versions:
        if version.bundle_digest == bundle.digest:
            require_same(bundle, version)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line


def _manifest(entries: list[Entry]) -> Manifest:
    return Manifest(
        pulmo=__version__,
        registry_schema=HEAD,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        entries=tuple(entries),
    )


def _summary(archive: Archive, versions: int, *, already: bool = False) -> Backup:
    return Backup(
        path=archive.path,
        bytes=archive.path.stat().st_size,
        versions=versions,
        bundles=len(archive.bundles),
        created_at=archive.manifest.created_at,
        already=already,
    )


def _refuse_damage(place: str, findings: list[Finding]) -> None:
    if findings:
        first = findings[0]
        raise RefusedError(
            f"{place} is damaged, {first.where}: {first.what}; `pulmo registry verify` says "
            "what else there is and what to do"
        )


def _not_empty() -> RefusedError:
    return RefusedError(
        "the registry holds models already: restore into an empty one (PULMO_REGISTRY_URL and "
        "PULMO_FILES_URL name it)"
    )
