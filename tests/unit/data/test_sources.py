"""Sources become folders of pictures, or say what is missing."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.schema import DataConfig
from pulmo.data import sources
from pulmo.data.collection import Collection, Found, visible
from pulmo.data.download import Remote
from pulmo.data.sources import collect
from pulmo.errors import ConfigError, DataError

Configure = Callable[..., DataConfig]
OFFICIAL = {"official": {"train": "pool", "val": "pool", "test": "test"}}


@pytest.fixture
def gather(tmp_path: Path, configure: Configure) -> Callable[..., Collection]:
    """`gather("cat/1.png", …)` collects a root that holds these (empty) files."""

    def make(*names: str, **changes: object) -> Collection:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return collect(configure(root=str(root), **changes), tmp_path / "data")

    return make


Gather = Callable[..., Collection]


def test_classes_are_the_folders_beneath_the_root(gather: Gather) -> None:
    found = gather("dog/b.PNG", "cat/a.jpeg", "cat/more/deep/c.TIF")
    assert found.classes == ("cat", "dog")
    assert found.files == (
        Found("cat/a.jpeg", "cat", "pool"),
        Found("cat/more/deep/c.TIF", "cat", "pool"),
        Found("dog/b.PNG", "dog", "pool"),
    )
    assert found.skipped == ()


def test_official_split_folders_are_taken_by_their_role(gather: Gather) -> None:
    found = gather("Train/cat/a.png", "val/dog/b.png", "test/cat/c.png", splits=OFFICIAL)
    assert [(one.path, one.role) for one in found.files] == [
        ("Train/cat/a.png", "pool"),
        ("test/cat/c.png", "test"),
        ("val/dog/b.png", "pool"),
    ]


def test_split_names_are_classes_where_the_configuration_knows_no_splits(gather: Gather) -> None:
    assert gather("train/a.png", "test/b.png").classes == ("test", "train")


def test_what_is_no_picture_of_a_class_is_listed(gather: Gather) -> None:
    found = gather(
        "train/cat/a.png", "train/cat/notes.txt", "train/loose.png", "train/dog/b.bmp",
        "extra/cat/a.png", "readme.md", "train/bird/c.webp",
        splits=OFFICIAL, classes=["dog", "cat"],
    )  # fmt: skip
    assert found.classes == ("dog", "cat")
    assert found.skipped == (
        "extra", "readme.md", "train/bird", "train/cat/notes.txt", "train/loose.png",
    )  # fmt: skip


def test_hidden_and_system_files_are_passed_over_in_silence(gather: Gather) -> None:
    found = gather(
        "cat/a.png", "dog/b.png", "cat/._a.png", ".git/x.png", "__MACOSX/cat/a.png",
        "cat/.hidden/y.png", "dog/Thumbs.db", ".DS_Store",
    )  # fmt: skip
    assert len(found.files) == 2
    assert found.skipped == ()


def test_linked_folders_are_not_walked_and_linked_files_are_taken(
    gather: Gather, tmp_path: Path
) -> None:
    gather("cat/a.png", "dog/b.png")
    (tmp_path / "root/cat/circle").symlink_to(tmp_path / "root")
    (tmp_path / "root/cat/c.png").symlink_to(tmp_path / "root/cat/a.png")
    found = gather()
    assert [one.path for one in found.files] == ["cat/a.png", "cat/c.png", "dog/b.png"]
    assert found.skipped == ("cat/circle",)


def test_a_configured_class_without_pictures_is_an_error(gather: Gather) -> None:
    with pytest.raises(DataError, match=r"no pictures of class bird, but folders cat, dog:"):
        gather("cat/a.png", "dog/b.png", "bird/c.txt", classes=["cat", "bird"], splits=OFFICIAL)


def test_a_folder_without_pictures_is_an_error(gather: Gather) -> None:
    with pytest.raises(DataError, match=r"one folder for each class: cat, dog"):
        gather("loose.png", classes=["cat", "dog"])
    with pytest.raises(DataError, match="one folder for each class"):
        gather("cat/readme.txt")


def test_a_single_class_is_an_error(gather: Gather) -> None:
    with pytest.raises(DataError, match="class cat alone"):
        gather("cat/a.png")


@pytest.mark.parametrize("name", [b"bad\xff.png", b"new\nline.png"])
def test_a_name_that_no_manifest_can_hold_is_an_error(
    gather: Gather, tmp_path: Path, name: bytes
) -> None:
    gather("cat/a.png", "dog/b.png")
    Path(os.fsdecode(os.fsencode(tmp_path / "root" / "cat") + b"/" + name)).touch()
    with pytest.raises(DataError, match="rename it"):
        gather()


def test_a_root_that_is_not_given_or_not_there_is_said(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=/path/to/folder"):
        collect(configure(), tmp_path)
    with pytest.raises(DataError, match="no folder"):
        collect(configure(root=str(tmp_path / "nothing")), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_an_error(gather: Gather, tmp_path: Path) -> None:
    gather("cat/a.png", "dog/b.png")
    (tmp_path / "root" / "cat").chmod(0)
    with pytest.raises(DataError, match="cannot be listed"):
        gather()


def test_listing_errors_are_data_errors(configure: Configure) -> None:
    with pytest.raises(DataError, match="cannot be listed: No such file"):
        visible(Path("/nothing/here"))


def test_the_phantom_is_drawn_once(configure: Configure, tmp_path: Path) -> None:
    config = configure(source="phantom", phantom={"images": 40, "size": 32})
    found = collect(config, tmp_path)
    assert found.classes == ("NORMAL", "PNEUMONIA")
    assert len(found.files) == 40
    assert found.root.is_relative_to(tmp_path / "pets" / "raw")
    first = found.root / found.files[0].path
    before = first.stat().st_mtime_ns
    assert collect(config, tmp_path) == found
    assert first.stat().st_mtime_ns == before
    other = configure(source="phantom", phantom={"images": 41, "size": 32})
    assert collect(other, tmp_path).root != found.root


def test_a_phantom_that_was_interrupted_is_not_taken_as_whole(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(source="phantom", phantom={"images": 40, "size": 32})
    with monkeypatch.context() as patch:
        patch.setattr(sources, "encode", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect(config, tmp_path)
    assert list((tmp_path / "pets" / "raw").iterdir()) == []
    assert len(collect(config, tmp_path).files) == 40


def archive(labels: int = 1, **replaced: np.ndarray) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    for k, split in enumerate(("train", "val", "test")):
        images = np.full((4 - k, 5, 5), 10 * k, np.uint8)
        images[:, 0, 0] = np.arange(4 - k)
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = np.arange(4 - k, dtype=np.uint8)[:, None] % (labels + 1)
    stream = io.BytesIO()
    np.savez(stream, **(arrays | replaced))
    return stream.getvalue()


@pytest.fixture
def medmnist(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes], tuple[DataConfig, list[str]]]:
    """The configuration of an archive with these bytes, and the addresses that are fetched."""

    def make(data: bytes) -> tuple[DataConfig, list[str]]:
        fetched: list[str] = []

        def fetch(remote: Remote, target: Path) -> Path:
            fetched.extend(remote.urls)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            return target

        monkeypatch.setattr(sources, "fetch", fetch)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        config = configure(source="npz", url="http://host/a.npz", md5=md5, splits=OFFICIAL)
        return config, fetched

    return make


Medmnist = Callable[[bytes], tuple[DataConfig, list[str]]]


def test_a_medmnist_archive_is_unpacked_once(medmnist: Medmnist, tmp_path: Path) -> None:
    config, fetched = medmnist(archive())
    found = collect(config, tmp_path)
    assert [(one.label, one.role) for one in found.files if one.role == "test"] == [
        ("NORMAL", "test"),
        ("PNEUMONIA", "test"),
    ]
    assert len(found.files) == 9
    with Image.open(found.root / "train" / "PNEUMONIA" / "00003.png") as image:
        pixels = np.asarray(image)
    assert pixels[0, 0] == 3
    assert collect(config, tmp_path) == found
    assert fetched == ["http://host/a.npz"]


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        archive(labels=2),
        archive(train_images=np.zeros((4, 5, 5, 3), np.uint8)),
        archive(train_images=np.zeros((4, 5, 5), np.float32)),
        archive(val_labels=np.zeros((2, 1), np.uint8)),
        archive(test_labels=np.array([["a"], ["b"]], dtype=object)),
    ],
)
def test_another_archive_is_refused(medmnist: Medmnist, tmp_path: Path, data: bytes) -> None:
    config, _ = medmnist(data)
    with pytest.raises(DataError, match="MedMNIST archive"):
        collect(config, tmp_path)
    assert not (tmp_path / "pets" / "raw" / (config.md5 or "")[:12]).exists()


def test_an_archive_without_address_is_a_config_error(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs data\.url"):
        collect(configure(source="npz"), tmp_path)


def test_a_folder_may_come_out_of_an_archive(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = tmp_path / "unpacked"
    for name in ("train/cat/1.png", "train/dog/2.png"):
        path = wrapped / "wrapper" / name
        path.parent.mkdir(parents=True)
        path.touch()
    asked: list[Remote] = []
    monkeypatch.setattr(sources, "brought", lambda remote, _: asked.append(remote) or wrapped)
    config = configure(url="http://host/a.zip", mirrors=["http://other/a.zip"], splits=OFFICIAL)
    found = collect(config, tmp_path / "data")
    assert asked == [Remote(("http://host/a.zip", "http://other/a.zip"))]
    assert found.root == wrapped / "wrapper"
    assert [one.path for one in found.files] == ["train/cat/1.png", "train/dog/2.png"]
    named = configure(root=str(wrapped / "wrapper"), url="http://host/a.zip", splits=OFFICIAL)
    assert collect(named, tmp_path / "data") == found
    assert len(asked) == 1


def test_dicom_files_are_pictures_with_and_without_their_suffix(gather: Gather) -> None:
    found = gather("cat/a.dcm", "cat/IM0001", "cat/1.2.840.99", "dog/b.DICOM", "dog/notes")
    assert [one.path for one in found.files] == ["cat/a.dcm", "dog/b.DICOM"]
    for name in ("cat/IM0001", "cat/1.2.840.99"):
        (found.root / name).write_bytes(bytes(128) + b"DICM")
    again = gather()
    assert {one.path for one in again.files} == {
        "cat/a.dcm", "cat/IM0001", "cat/1.2.840.99", "dog/b.DICOM",
    }  # fmt: skip
    assert again.skipped == ("dog/notes",)
