"""Cached pixels are the pictures' own, made once and never trusted blindly."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pulmo.config.schema import DataConfig
from pulmo.core.bundle import file_digest
from pulmo.core.preprocess import InputSpec, read
from pulmo.data import cache, files
from pulmo.data.cache import open_pixels
from pulmo.data.dealing import Picture, build
from pulmo.data.manifest import DataSet, store
from pulmo.errors import DataError

Draw = Callable[[Path, int], Path]
SPEC = InputSpec(height=8, width=10, channels=1)


@pytest.fixture
def dataset(tmp_path: Path, draw: Draw, configure: Callable[..., DataConfig]) -> DataSet:
    root = tmp_path / "root"
    pictures = []
    for i in range(9):
        path = draw(root / "cat" / f"{i}.png", i % 8)  # the last repeats the first
        pixels = f"{i % 8}" * 64
        pictures.append(Picture(f"cat/{i}.png", "cat", "pool", file_digest(path), pixels))
    manifest = build(configure(), ("cat", "dog"), pictures)
    return store(manifest, root, tmp_path / "data")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The caches that are filled."""
    seen: list[Path] = []
    make = cache._make

    def counting(dataset: DataSet, spec: InputSpec, path: Path) -> None:
        seen.append(path)
        make(dataset, spec, path)

    monkeypatch.setattr(cache, "_make", counting)
    return seen


def test_rows_are_aligned_with_the_manifest(dataset: DataSet) -> None:
    pixels = open_pixels(dataset, SPEC)
    assert pixels.shape == (9, 1, 8, 10)
    assert pixels.dtype == np.uint8
    for i, row in enumerate(dataset.manifest.rows):
        np.testing.assert_array_equal(pixels[i], read(dataset.path(row).read_bytes(), SPEC))


def test_the_cache_is_read_only_memory_mapped_and_made_once(
    dataset: DataSet, made: list[Path]
) -> None:
    for _ in range(2):
        pixels = open_pixels(dataset, SPEC)
        assert isinstance(pixels, np.memmap)
        assert not pixels.flags.writeable
    assert len(made) == 1


def test_every_input_has_its_own_cache(dataset: DataSet) -> None:
    colour = InputSpec(height=16, width=16, channels=3)
    assert open_pixels(dataset, colour).shape == (9, 3, 16, 16)
    assert open_pixels(dataset, SPEC).shape == (9, 1, 8, 10)
    crop = SPEC.model_copy(update={"resize": "crop"})
    open_pixels(dataset, crop)
    assert len(list(dataset.folder.glob("pixels-*.npy"))) == 3


@pytest.mark.parametrize("damage", ["flip", "shorten", "sidecar", "no sidecar"])
def test_a_damaged_cache_is_made_anew(dataset: DataSet, made: list[Path], damage: str) -> None:
    before = open_pixels(dataset, SPEC).tobytes()
    (path,) = made
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "shorten":
        path.write_bytes(data[:-5])
    elif damage == "sidecar":
        path.with_suffix(".sha256").write_bytes(b"")
    else:
        path.with_suffix(".sha256").unlink()
    assert open_pixels(dataset, SPEC).tobytes() == before
    assert len(made) == 2


def test_a_picture_that_changed_is_named_with_the_command(dataset: DataSet, draw: Draw) -> None:
    draw(dataset.root / "cat" / "4.png", 1234)
    with pytest.raises(DataError, match=r"4\.png has changed .*uv run main\.py data data=pets"):
        open_pixels(dataset, SPEC)
    assert not list(dataset.folder.glob("*.npy"))
    assert not list(dataset.folder.glob(".*.part"))


def test_a_picture_that_is_gone_is_named_with_the_command(dataset: DataSet) -> None:
    (dataset.root / "cat" / "4.png").unlink()
    with pytest.raises(DataError, match=r"4\.png cannot be read.*uv run main\.py data data=pets"):
        open_pixels(dataset, SPEC)


def test_a_full_disk_is_a_data_error(dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        open_pixels(dataset, SPEC)
    assert not list(dataset.folder.glob(".*.part"))


def test_two_at_the_same_time_make_one(dataset: DataSet, made: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_pixels(dataset, SPEC).tobytes(), range(4)))
    assert len(set(found)) == 1
    assert len(made) == 1


def test_each_rule_of_preprocessing_has_its_own_pixels(dataset: DataSet) -> None:
    open_pixels(dataset, SPEC)
    open_pixels(dataset, SPEC.model_copy(update={"preprocess": 2}))
    assert len(list(dataset.folder.glob("pixels-*.npy"))) == 2
