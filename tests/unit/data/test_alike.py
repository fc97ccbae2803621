"""Near duplicates are found across a source, and pictures of the same kind are left alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.config.schema import DataConfig, DoctorConfig
from pulmo.data.alike import find_alike
from pulmo.data.collection import Collection, Found
from pulmo.data.scan import Scan, scan

Configure = Callable[..., DataConfig]


@pytest.fixture
def seen(tmp_path: Path, configure: Configure) -> Scan:
    """Three pictures, a re-encoded copy and a copy of the copy, and two blank ones."""
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(noise).resize((120, 120), Image.Resampling.BICUBIC).save(
            tmp_path / f"{i}.png"
        )
    with Image.open(tmp_path / "0.png") as image:
        image.save(tmp_path / "again.jpeg", quality=60)
        image.resize((90, 90)).save(tmp_path / "small.png")
    for level in (0, 255):
        Image.new("L", (50, 50), level).save(tmp_path / f"blank{level}.png")
    found = tuple(Found(p.name, "cat", "pool") for p in sorted(tmp_path.iterdir()))
    return scan(Collection(tmp_path, ("cat", "dog"), found, ()), configure(), tmp_path / "memory")


def test_copies_in_other_encodings_belong_to_one_picture(
    seen: Scan, tmp_path: Path, configure: Configure
) -> None:
    alike = find_alike(tmp_path, seen.pictures, seen.looks, configure(), DoctorConfig())
    pixels = {p.path: p.pixels for p in seen.pictures}
    group = sorted(pixels[name] for name in ("0.png", "again.jpeg", "small.png"))
    assert alike == {group[1]: group[0], group[2]: group[0]}


def test_a_likeness_that_nothing_reaches_finds_nothing(
    seen: Scan, tmp_path: Path, configure: Configure
) -> None:
    strict = DoctorConfig(likeness=1.0)
    assert find_alike(tmp_path, seen.pictures, seen.looks, configure(), strict) == {}
    assert find_alike(tmp_path, seen.pictures[:1], seen.looks, configure(), strict) == {}
