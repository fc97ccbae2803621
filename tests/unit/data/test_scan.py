"""Every picture is read once, and again only when it has changed."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pulmo.config.schema import DataConfig
from pulmo.core.bundle import sha256
from pulmo.core.preprocess import decode, pixel_digest
from pulmo.data import scan as scanning
from pulmo.data.collection import Collection, Found
from pulmo.data.dealing import Picture
from pulmo.data.scan import each, scan

Draw = Callable[[Path, int], Path]
GREY = DataConfig(name="pets", source="folder", intended_use="tests")
COLOUR = GREY.model_copy(update={"channels": 3})


@pytest.fixture
def collection(tmp_path: Path, draw: Draw) -> Collection:
    root = tmp_path / "root"
    for i in range(5):
        draw(root / f"{i}.png", i)
    found = tuple(Found(f"{i}.png", "cat", "pool") for i in range(5))
    return Collection(root, ("cat", "dog"), found, ())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SHA-256 of every file that is decoded."""
    seen: list[str] = []

    def counting(encoded: bytes, *rest: Any) -> Image.Image:
        seen.append(sha256(encoded))
        return decode(encoded, *rest)

    monkeypatch.setattr(scanning, "decode", counting)
    return seen


def test_both_digests_are_right(collection: Collection, tmp_path: Path) -> None:
    pictures = scan(collection, GREY, tmp_path / "memory").pictures
    encoded = (collection.root / "3.png").read_bytes()
    assert pictures[3] == Picture(
        "3.png", "cat", "pool", sha256(encoded), pixel_digest(decode(encoded, 1))
    )
    assert [picture.path for picture in pictures] == [f"{i}.png" for i in range(5)]


def test_what_has_not_changed_is_not_decoded_again(
    collection: Collection, tmp_path: Path, decoded: list[str], draw: Draw
) -> None:
    first = scan(collection, GREY, tmp_path / "memory")
    assert len(decoded) == 5
    assert scan(collection, GREY, tmp_path / "memory") == first
    assert len(decoded) == 5
    draw(collection.root / "2.png", 99)
    second = scan(collection, GREY, tmp_path / "memory")
    assert len(decoded) == 6
    assert first.pictures[2] != second.pictures[2]


def test_another_number_of_channels_is_another_picture(
    collection: Collection, tmp_path: Path, decoded: list[str]
) -> None:
    grey = scan(collection, GREY, tmp_path / "memory")
    colour = scan(collection, COLOUR, tmp_path / "memory")
    assert len(decoded) == 10
    assert grey.pictures[0].pixels != colour.pictures[0].pixels


@pytest.mark.parametrize("memory", [b"", b"{", b'{"root": "/"}', b"\xff"])
def test_a_damaged_memory_costs_time_and_no_more(
    collection: Collection, tmp_path: Path, decoded: list[str], memory: bytes
) -> None:
    (tmp_path / "memory").write_bytes(memory)
    assert len(scan(collection, GREY, tmp_path / "memory").pictures) == 5
    scan(collection, GREY, tmp_path / "memory")
    assert len(decoded) == 5


def test_what_cannot_be_read_is_listed_with_the_reason(
    collection: Collection, tmp_path: Path
) -> None:
    whole = (collection.root / "0.png").read_bytes()
    (collection.root / "0.png").write_bytes(whole[:60])
    (collection.root / "1.png").unlink()
    (collection.root / "2.png").unlink()
    os.mkfifo(collection.root / "2.png")
    (collection.root / "3.png").write_bytes(b"")
    seen = scan(collection, GREY, tmp_path / "memory")
    assert [bad.path for bad in seen.unreadable] == ["0.png", "1.png", "2.png", "3.png"]
    reasons = [bad.reason for bad in seen.unreadable]
    assert "damaged" in reasons[0]
    assert "No such file" in reasons[1]
    assert "no plain file" in reasons[2]
    assert "not a picture" in reasons[3]
    assert [picture.path for picture in seen.pictures] == ["4.png"]


@pytest.mark.parametrize("suffix", ["jpeg", "png"])
def test_a_file_without_its_last_bytes_is_cut_short_though_all_pixels_are_there(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.linear_gradient("L").save(path)
    found = Collection(tmp_path, ("cat", "dog"), (Found(path.name, "cat", "pool"),), ())
    assert scan(found, GREY, tmp_path / "memory").unreadable == ()
    whole = path.read_bytes()
    decoded_whole = decode(whole, 1).tobytes()
    for cut in (whole[:-1], whole[: -12 if suffix == "png" else -2]):
        path.write_bytes(cut)
        (bad,) = scan(found, GREY, tmp_path / "memory").unreadable
        assert "cut short" in bad.reason or "damaged" in bad.reason
    assert len(decoded_whole) == 256 * 256


def test_results_come_in_order() -> None:
    assert list(each(lambda x: x * x, range(100), "squares")) == [x * x for x in range(100)]


def test_an_error_stops_what_has_not_begun() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def fail(number: int) -> int:
        with lock:
            begun.append(number)
        if number == 0:
            raise ValueError("the first one")
        return number

    with pytest.raises(ValueError, match="the first one"):
        list(each(fail, range(10_000), "failing"))
    assert len(begun) < 10_000
