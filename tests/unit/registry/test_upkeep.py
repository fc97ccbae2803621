"""A registry as a whole: examined, collected, backed up and restored, here and elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pulmo.core.bundle import CARD, FILES, GRAPH, SIGNATURE, SUMS, Bundle
from pulmo.core.ports import ModelRef, Version
from pulmo.errors import NotFoundError, PulmoError, RefusedError, RegistryError
from pulmo.registry import upkeep as module
from pulmo.registry.archive import Manifest, entry_of, open_archive, write_archive
from pulmo.registry.files import FolderFiles
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.signing import Keys, make_keys
from pulmo.registry.upkeep import Upkeep, check_archive, open_upkeep
from pulmo.store.database import open_database

Put = Callable[..., Version]
BY = {"actor": "ada", "reason": "because"}


@dataclass(frozen=True)
class Place:
    """Where a registry lies, and how it is opened."""

    folder: Path
    remote: bool = False
    database: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "database_url": self.database or f"sqlite:///{self.folder}/registry.db",
            "files_url": ("local://" if self.remote else "") + str(self.folder / "bundles"),
            "cache": self.folder / "cache",
        }

    def registry(self) -> LocalRegistry:
        return open_registry(**self.arguments)

    def upkeep(self, **options: Any) -> Upkeep:
        return open_upkeep(**self.arguments, **options)


@pytest.fixture(params=["folder", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.param == "remote")


@pytest.fixture
def registry(place: Place) -> Iterator[LocalRegistry]:
    opened = place.registry()
    yield opened
    opened.close()


@pytest.fixture
def upkeep(place: Place, registry: LocalRegistry) -> Iterator[Upkeep]:
    opened = place.upkeep()
    yield opened
    opened.close()


@pytest.fixture
def full(put: Put, promote: Callable[[Version], None]) -> list[Version]:
    """Three versions, the second in production after the first."""
    versions = [put(number) for number in range(3)]
    promote(versions[0])
    promote(versions[1])
    return versions


def stored(place: Place, version: Version) -> Path:
    return place.folder / "bundles" / version.bundle_digest


def told(upkeep: Upkeep, name: str | None = None) -> list[tuple[bool, str]]:
    return [(finding.damage, finding.where) for finding in upkeep.verify(name)]


def change(place: Place, *statements: str) -> None:
    """What no command does: write into the database behind the registry's back."""
    import sqlite3

    connection = sqlite3.connect(place.folder / "registry.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_whole_registry_has_nothing_to_tell(upkeep: Upkeep, full: list[Version]) -> None:
    assert upkeep.verify() == []
    assert upkeep.verify("toy") == []
    with pytest.raises(NotFoundError, match="no model 'toi'"):
        upkeep.verify("toi")


@pytest.mark.parametrize("file", [*FILES, SUMS])
def test_every_flipped_bit_is_found_where_it_is(
    upkeep: Upkeep, full: list[Version], place: Place, file: str
) -> None:
    path = stored(place, full[2]) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert told(upkeep) == [(True, "toy:v2")]


def test_a_lost_bundle_is_damage_and_comes_back_by_registering_it(
    upkeep: Upkeep, full: list[Version], place: Place, put: Put
) -> None:
    shutil.rmtree(stored(place, full[0]))
    (finding,) = upkeep.verify()
    assert (finding.damage, finding.where) == (True, "toy:v0")
    assert "register the same bundle again" in finding.remedy
    put(0)
    assert upkeep.verify() == []


def test_files_that_no_version_names_are_told_and_do_no_harm(
    upkeep: Upkeep, full: list[Version], place: Place, registry: LocalRegistry
) -> None:
    registry.delete("toy", 2, **BY)
    (place.folder / "bundles" / "notes.txt").write_text("mine")
    assert told(upkeep) == sorted([(False, full[2].bundle_digest), (False, "notes.txt")])


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("DELETE FROM aliases WHERE alias = 'best'", "toy:best", "where its history ends"),
        ("UPDATE aliases SET number = 9 WHERE alias = 'latest'", "toy:latest", "does not exist"),
        ("UPDATE verdicts SET passed = 0", "toy:production", "no passing verdict"),
        ("UPDATE models SET next_number = 2", "toy", "was given already"),
        ("UPDATE history SET before = 7 WHERE id = 5", "toy:production", "one before it ended"),
        ("UPDATE versions SET model_digest = 'x' WHERE number = 2", "toy:v2", "model digest"),
    ],
)
def test_rows_that_contradict_each_other_are_damage(
    upkeep: Upkeep, full: list[Version], place: Place, statement: str, where: str, what: str
) -> None:
    change(place, statement)
    found = [finding for finding in upkeep.verify() if finding.where == where]
    assert any(what in finding.what and finding.damage for finding in found), upkeep.verify()


def test_a_version_that_goes_while_it_is_examined_is_no_damage(
    upkeep: Upkeep,
    full: list[Version],
    place: Place,
    registry: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examine = module.examine_files

    def late(*arguments: Any) -> Any:
        registry.delete("toy", 2, **BY)
        shutil.rmtree(stored(place, full[2]))
        return examine(*arguments)

    monkeypatch.setattr(module, "examine_files", late)
    assert upkeep.verify("toy") == []


def test_only_what_no_version_names_is_collected(
    upkeep: Upkeep, full: list[Version], place: Place, registry: LocalRegistry
) -> None:
    registry.delete("toy", 2, **BY)
    size = sum(path.stat().st_size for path in stored(place, full[2]).iterdir())
    before = sorted(path.name for path in (place.folder / "bundles").iterdir())
    for dry_run in (True, False):
        gone = upkeep.collect(dry_run=dry_run)
        assert [(p.name, p.kind, p.bytes) for p in gone] == [
            (full[2].bundle_digest, "bundle", size)
        ]
        left = sorted(path.name for path in (place.folder / "bundles").iterdir())
        assert left == [name for name in before if dry_run or name != full[2].bundle_digest]
    assert upkeep.collect() == []
    assert upkeep.verify() == []


def test_a_bundle_that_is_collected_while_it_is_registered_is_stored_again(
    upkeep: Upkeep,
    full: list[Version],
    place: Place,
    registry: LocalRegistry,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.delete("toy", 2, **BY)
    store, done = registry._files.store, []

    def store_then_lose(bundle: Bundle) -> None:
        store(bundle)
        if not done:
            done.append(upkeep.collect())

    monkeypatch.setattr(registry._files, "store", store_then_lose)
    version = put(2)
    assert [piece.name for piece in done[0]] == [version.bundle_digest]
    assert upkeep.verify() == []


def test_a_backup_is_restored_elsewhere_to_the_last_row(
    upkeep: Upkeep, full: list[Version], place: Place, registry: LocalRegistry, tmp_path: Path
) -> None:
    made = upkeep.backup(tmp_path / "b.tar")
    assert (made.versions, made.bundles, made.already) == (3, 3, False)
    assert made.bytes == (tmp_path / "b.tar").stat().st_size
    elsewhere = Place(tmp_path / "elsewhere", not place.remote)
    keeper = elsewhere.upkeep()
    assert keeper.restore(check_archive(made.path)).already is False
    assert keeper.verify() == []
    other = elsewhere.registry()
    assert other.versions("toy") == registry.versions("toy")
    assert other.history("toy") == registry.history("toy")
    assert other.verdicts("toy") == registry.verdicts("toy")
    assert other.rollback("toy", to=None, **BY).after == 0
    assert keeper.backup(tmp_path / "c.tar").versions == 3


def test_a_restoration_that_is_repeated_mends_the_files_and_says_so(
    upkeep: Upkeep, full: list[Version], place: Place, tmp_path: Path
) -> None:
    archive = check_archive(upkeep.backup(tmp_path / "b.tar").path)
    shutil.rmtree(stored(place, full[0]))
    assert upkeep.restore(archive).already is True
    assert upkeep.verify() == []


def test_a_registry_that_holds_something_else_is_left_alone(
    upkeep: Upkeep, full: list[Version], put: Put, tmp_path: Path
) -> None:
    archive = check_archive(upkeep.backup(tmp_path / "b.tar").path)
    put(3)
    before = upkeep.backup(tmp_path / "before.tar")
    with pytest.raises(RefusedError, match="holds models already: restore into an empty one"):
        upkeep.restore(archive)
    after = upkeep.backup(tmp_path / "after.tar")
    rows = "registry.jsonl"
    assert open_archive(before.path).digest_of(rows) == open_archive(after.path).digest_of(rows)


def test_bundles_that_are_collected_while_they_are_restored_are_stored_again(
    upkeep: Upkeep, full: list[Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = check_archive(upkeep.backup(tmp_path / "b.tar").path)
    keeper = Place(tmp_path / "elsewhere").upkeep()
    store = FolderFiles.store

    def store_then_lose(self: FolderFiles, bundle: Bundle) -> None:
        store(self, bundle)
        if bundle.digest == archive.bundles[-1]:
            monkeypatch.setattr(FolderFiles, "store", store)
            assert len(keeper.collect()) == 3

    monkeypatch.setattr(FolderFiles, "store", store_then_lose)
    keeper.restore(archive)
    assert keeper.verify() == []


@pytest.mark.parametrize("harm", ["rows", "files"])
def test_a_damaged_registry_is_not_backed_up(
    upkeep: Upkeep, full: list[Version], place: Place, tmp_path: Path, harm: str
) -> None:
    if harm == "rows":
        change(place, "UPDATE verdicts SET passed = 0")
    else:
        shutil.rmtree(place.folder / "cache", ignore_errors=True)
        (stored(place, full[1]) / GRAPH).write_bytes(b"foreign")
    with pytest.raises(PulmoError, match=r"is damaged|does not match its digest"):
        upkeep.backup(tmp_path / "b.tar")
    assert not list(tmp_path.glob("*b.tar*"))


def test_a_backup_begins_again_when_a_version_goes_meanwhile(
    upkeep: Upkeep,
    full: list[Version],
    registry: LocalRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch, files = upkeep._files.fetch, upkeep._files

    def fetch_late(digest: str) -> Path:
        monkeypatch.setattr(files, "fetch", fetch)
        registry.delete("toy", 2, **BY)
        raise NotFoundError("it is gone")

    monkeypatch.setattr(files, "fetch", fetch_late)
    assert upkeep.backup(tmp_path / "b.tar").versions == 2


def test_signatures_are_examined_and_travel_along(
    upkeep: Upkeep, full: list[Version], place: Place, tmp_path: Path
) -> None:
    private, public = make_keys(tmp_path / "keys")
    keys = Keys(private, public)
    strict = place.upkeep(keys=keys)
    assert told(strict) == [(True, f"toy:v{n}") for n in range(3)]
    signer = open_registry(**place.arguments, keys=keys)
    for number in range(3):
        signer.sign(ModelRef("toy", version=number))
    assert strict.verify() == []
    elsewhere = Place(tmp_path / "elsewhere")
    keeper = elsewhere.upkeep(keys=keys)
    keeper.restore(check_archive(upkeep.backup(tmp_path / "b.tar").path))
    assert keeper.verify() == []
    assert (stored(elsewhere, full[0]) / SIGNATURE).is_file()


def rewritten(path: Path, folder: Path, spoil: Callable[[Path, Path], None]) -> Path:
    """The archive with other rows or files, in itself as consistent as ever."""
    archive = open_archive(path)
    folder.mkdir()
    rows = archive.rows(folder)
    (folder / "bundle").mkdir()
    bundle = archive.bundle(archive.bundles[0], folder / "bundle")
    spoil(rows, bundle)
    sources, entries = [], []
    for entry in archive.manifest.entries:
        if entry.name == rows.name:
            source = rows
        elif archive.bundles[0] in entry.name:
            source = bundle / Path(entry.name).name
        else:
            _, digest, name = entry.name.split("/")
            (folder / digest).mkdir(exist_ok=True)
            source = archive.bundle(digest, folder / digest) / name
        sources.append(source)
        entries.append(entry_of(entry.name, source))
    told = archive.manifest.model_dump() | {"entries": entries}
    write_archive(folder / "other.tar", Manifest(**told), sources)
    return folder / "other.tar"


def spoil_bundle(rows: Path, bundle: Path) -> None:
    (bundle / CARD).write_bytes(b"foreign")


def spoil_rows(rows: Path, bundle: Path) -> None:
    rows.write_bytes(rows.read_bytes().replace(b'"passed":true', b'"passed":false'))


def other_versions(rows: Path, bundle: Path) -> None:
    rows.write_bytes(rows.read_bytes().replace(bundle_digest(bundle), b"0" * 64))


def other_spelling(rows: Path, bundle: Path) -> None:
    rows.write_bytes(rows.read_bytes().replace(b'"name":"toy"', b'"name": "toy"'))


def no_rows(rows: Path, bundle: Path) -> None:
    rows.write_bytes(b'["sqlite_master", {}]\n')


def bundle_digest(bundle: Path) -> bytes:
    from pulmo.core.bundle import file_digest

    return file_digest(bundle / SUMS).encode()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (spoil_bundle, "holds a damaged bundle"),
        (spoil_rows, "has no passing verdict"),
        (other_versions, "not those that its versions name"),
        (other_spelling, "not as Pulmo writes them"),
        (no_rows, "line 1 is no row"),
    ],
)
def test_an_archive_that_contradicts_itself_is_refused(
    upkeep: Upkeep,
    full: list[Version],
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    match: str,
) -> None:
    made = upkeep.backup(tmp_path / "b.tar")
    with pytest.raises(PulmoError, match=match):
        check_archive(rewritten(made.path, tmp_path / "other", spoil))


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_backup_of_another_schema_asks_for_its_pulmo(
    upkeep: Upkeep, full: list[Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = upkeep.backup(tmp_path / "b.tar")
    monkeypatch.setattr(module, "HEAD", "9999")
    with pytest.raises(RegistryError, match="restore it with that Pulmo"):
        check_archive(made.path)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_registry_moves_from_sqlite_to_postgres_and_back(
    upkeep: Upkeep, full: list[Version], registry: LocalRegistry, tmp_path: Path, postgres: Any
) -> None:
    made = upkeep.backup(tmp_path / "b.tar")
    there = Place(tmp_path / "there", database=postgres.empty())
    keeper = there.upkeep()
    keeper.restore(check_archive(made.path))
    assert keeper.verify() == []
    again = keeper.backup(tmp_path / "c.tar")
    rows = "registry.jsonl"
    assert open_archive(again.path).digest_of(rows) == open_archive(made.path).digest_of(rows)
    opened = there.registry()
    assert opened.versions("toy") == registry.versions("toy")
    assert opened.set_alias("toy", "team", 0, expected=None, **BY).id > 5
    opened.delete("toy", 2, **BY)
    assert [piece.name for piece in keeper.collect()] == [full[2].bundle_digest]
    home = Place(tmp_path / "home").upkeep()
    assert home.restore(check_archive(keeper.backup(tmp_path / "d.tar").path)).versions == 2
    opened.close()
    keeper.close()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_broken_database_file_is_told(upkeep: Upkeep, full: list[Version], place: Place) -> None:
    change(place, "PRAGMA foreign_keys=OFF", "DELETE FROM versions WHERE number = 0")
    assert (True, "database") in told(upkeep)
    with open_database(place.arguments["database_url"]).read() as session:
        assert session.scalar(text("SELECT count(*) FROM versions")) == 2
