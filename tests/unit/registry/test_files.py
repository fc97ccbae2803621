import errno
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pulmo.core.bundle import CARD, FILES, GRAPH, SUMS, Bundle, verify
from pulmo.errors import ModelError, NotFoundError, RegistryError
from pulmo.registry import files
from pulmo.registry.files import BundleFiles, FolderFiles, RemoteFiles, open_files

MISSING = "0" * 64


THREADSAFE = ["folder", "file", "local"]  # readers of one memory:// file share its position


@pytest.fixture(params=[*THREADSAFE, "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BundleFiles:
    folder = tmp_path / "store"
    memory = f"memory://{uuid.uuid4().hex}/bundles/"
    urls = {"folder": str(folder), "file": f"file://{folder}", "local": f"local://{folder}"}
    return open_files(urls.get(request.param, memory), cache=tmp_path / "cache")


@pytest.fixture
def remote(tmp_path: Path) -> RemoteFiles:
    store = open_files(f"local://{tmp_path}/store", cache=tmp_path / "cache")
    assert isinstance(store, RemoteFiles)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_stored_is_fetched_byte_for_byte(
    store: BundleFiles, toy_bundle: Bundle, tmp_path: Path
) -> None:
    assert not (tmp_path / "store").exists()
    store.store(toy_bundle)
    store.store(toy_bundle)
    folder = store.fetch(toy_bundle.digest)
    assert folder != toy_bundle.path
    assert contents(folder) == contents(toy_bundle.path)
    assert store.fetch(toy_bundle.digest) == folder


def test_a_missing_bundle_is_said_with_the_setting_to_check(store: BundleFiles) -> None:
    with pytest.raises(NotFoundError, match="check PULMO_FILES_URL"):
        store.fetch(MISSING)


@pytest.mark.parametrize("store", THREADSAFE, indirect=True)
def test_writers_of_one_bundle_do_not_hinder_each_other(
    store: BundleFiles, toy_bundle: Bundle
) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: store.store(toy_bundle), range(12)))
        folders = set(pool.map(lambda _: store.fetch(toy_bundle.digest), range(12)))
    (folder,) = folders
    assert [path.name for path in folder.parent.iterdir()] == [toy_bundle.digest]


@pytest.mark.parametrize("name", [GRAPH, SUMS])
def test_a_flipped_bit_is_found_and_mended_by_storing_again(
    toy_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    store = FolderFiles(tmp_path / "store")
    store.store(toy_bundle)
    path = tmp_path / "store" / toy_bundle.digest / name
    damaged = bytearray(path.read_bytes())
    damaged[10] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ModelError):
        store.fetch(toy_bundle.digest)
    store.store(toy_bundle)
    assert verify(store.fetch(toy_bundle.digest)).digest == toy_bundle.digest
    assert [one.name for one in (tmp_path / "store").iterdir()] == [toy_bundle.digest]


def test_a_whole_bundle_under_a_foreign_digest_is_refused(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(toy_bundle.path, tmp_path / "store" / MISSING)
    with pytest.raises(ModelError, match=f"not {MISSING}"):
        FolderFiles(tmp_path / "store").fetch(MISSING)


def test_a_bundle_that_changes_while_it_is_stored_leaves_nothing(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "made")
    (bundle.path / CARD).write_text("another card")
    with pytest.raises(ModelError, match="does not match its digest"):
        FolderFiles(tmp_path / "store").store(bundle)
    assert list((tmp_path / "store").iterdir()) == []


def test_every_file_and_folder_is_forced_to_disk_before_the_name_is_given(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename, sync = Path.rename, files.sync
    monkeypatch.setattr(files, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (done.append("rename"), rename(self, to))[1]
    )
    FolderFiles(tmp_path / "store").store(toy_bundle)
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    assert before[:-1] == [*FILES, SUMS]
    assert before[-1].startswith(".new-")
    assert after == ["store", tmp_path.name]


def test_a_place_that_is_a_file_is_told(toy_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(RegistryError, match="cannot be read or written: "):
        FolderFiles(tmp_path / "store").store(toy_bundle)


def test_a_full_disk_is_told_and_leaves_nothing(toy_bundle: Bundle, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / GRAPH).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RegistryError, match="No space left on device; check"):
        FolderFiles(tmp_path / "store").add(toy_bundle.digest, fill)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_name_that_cannot_be_taken_is_told(toy_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / toy_bundle.digest).write_text("a file where the folder belongs")
    with pytest.raises(RegistryError, match="cannot be read or written"):
        FolderFiles(tmp_path / "store").store(toy_bundle)


def test_the_sums_are_uploaded_last_and_only_once(
    toy_bundle: Bundle, remote: RemoteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    system = type(fsspec.filesystem("local"))
    put = system.put_file

    def spy(self: object, source: str, target: str, **options: object) -> None:
        sent.append(Path(target).name)
        put(self, source, target, **options)

    monkeypatch.setattr(system, "put_file", spy)
    remote.store(toy_bundle)
    assert sent == [*FILES, SUMS]
    remote.store(toy_bundle)
    assert len(sent) == len(FILES) + 1


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_an_upload_cut_short_is_repeated(
    toy_bundle: Bundle, remote: RemoteFiles, tmp_path: Path, name: str
) -> None:
    remote.store(toy_bundle)
    path = tmp_path / "store" / toy_bundle.digest / name
    path.write_bytes(path.read_bytes()[:-1])
    remote.store(toy_bundle)
    assert contents(remote.fetch(toy_bundle.digest)) == contents(toy_bundle.path)


def test_a_damaged_remote_file_never_reaches_the_cache(
    toy_bundle: Bundle, remote: RemoteFiles, tmp_path: Path
) -> None:
    remote.store(toy_bundle)
    (tmp_path / "store" / toy_bundle.digest / GRAPH).write_bytes(b"foreign")
    with pytest.raises(ModelError, match="does not match its digest"):
        remote.fetch(toy_bundle.digest)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(
    toy_bundle: Bundle, remote: RemoteFiles
) -> None:
    remote.store(toy_bundle)
    (remote.fetch(toy_bundle.digest) / CARD).unlink()
    assert contents(remote.fetch(toy_bundle.digest)) == contents(toy_bundle.path)


def test_a_remote_that_loses_a_file_is_told(
    toy_bundle: Bundle, remote: RemoteFiles, tmp_path: Path
) -> None:
    remote.store(toy_bundle)
    (tmp_path / "store" / toy_bundle.digest / CARD).unlink()
    with pytest.raises(RegistryError, match="cannot be reached or used"):
        remote.fetch(toy_bundle.digest)


def test_an_unknown_protocol_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="nonsense://bucket cannot be reached or used"):
        open_files("nonsense://bucket", cache=tmp_path)


def test_a_bundle_is_held_from_its_last_file_to_its_first_loss(
    store: BundleFiles, toy_bundle: Bundle
) -> None:
    assert not store.holds(toy_bundle.digest)
    store.store(toy_bundle)
    assert store.holds(toy_bundle.digest)
