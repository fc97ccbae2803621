"""A picture is known again by its looks, whatever it was encoded with."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pulmo.data.looks import likeness, look, near, reduced

HASHES = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40)


def landscape(seed: int, side: int = 160) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (20, 20), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def apart(one: Image.Image, other: Image.Image) -> int:
    return (look(one, "L").hash ^ look(other, "L").hash).bit_count()


def alike(one: Image.Image, other: Image.Image) -> float:
    return likeness(reduced(one), reduced(other))


@pytest.mark.parametrize("seed", range(5))
def test_encodings_of_a_picture_are_alike_and_other_pictures_are_not(seed: int) -> None:
    picture = landscape(seed)
    for copy in (encoded(picture, 60), picture.resize((80, 80), Image.Resampling.BICUBIC)):
        assert apart(picture, copy) <= 6
        assert alike(picture, copy) > 0.85
    other = landscape(seed + 100)
    assert apart(picture, other) > 6
    assert alike(picture, other) < 0.5


def test_looks_are_measured_in_grey_levels() -> None:
    flat = look(Image.new("RGB", (300, 200), (80, 80, 80)), "RGB")
    assert (flat.width, flat.height, flat.mode) == (300, 200, "RGB")
    assert (flat.brightness, flat.contrast, flat.sharpness) == (80.0, 0.0, 0.0)
    halves = Image.new("L", (64, 64), 0)
    halves.paste(200, (0, 0, 32, 64))
    assert look(halves, "L").brightness == 100.0
    assert look(halves, "L").contrast == 100.0


def test_a_blurred_picture_is_less_sharp() -> None:
    picture = landscape(1)
    blurred = picture.filter(ImageFilter.GaussianBlur(8))
    assert look(blurred, "L").sharpness < 0.5 * look(picture, "L").sharpness


def test_blank_and_tiny_pictures_are_like_nothing() -> None:
    blank = Image.new("L", (100, 100), 7)
    assert alike(blank, blank) == 0.0
    tiny = landscape(1, side=12)
    assert alike(tiny, tiny) == 0.0


def test_a_small_picture_is_compared_at_its_own_size() -> None:
    picture = landscape(3, side=28)
    assert alike(picture, encoded(picture, 75)) > 0.85
    assert alike(picture, picture.resize((224, 224), Image.Resampling.BICUBIC)) > 0.85


@given(HASHES, st.integers(0, 10), st.data())
def test_every_near_pair_is_found_and_no_other(
    hashes: list[int], distance: int, data: st.DataObject
) -> None:
    flips = data.draw(st.lists(st.integers(0, 63), max_size=10))
    twin = hashes[0]
    for bit in flips:
        twin ^= 1 << bit
    hashes = [*hashes, twin]
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    ]
    assert near(np.array(hashes, np.uint64), distance) == expected
