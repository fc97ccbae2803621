"""Grey pictures survive PNG, in bytes that never change."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pulmo.data.png import encode


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (128, 128), (300, 400)])
def test_pillow_reads_the_same_pixels(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(encode(pixels))) as image:
        image.verify()
    with Image.open(io.BytesIO(encode(pixels))) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_bytes_never_change() -> None:
    pixels = np.arange(400 * 300, dtype=np.uint32).astype(np.uint8).reshape(300, 400)
    digest = hashlib.sha256(encode(pixels)).hexdigest()
    assert digest == "c9e424812830754381a8625608ba64651a11ab09f85424131ca4839fb300d62a"
