import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pulmo.core.overlay import blend, colours, enlarged, heat, layer
from pulmo.core.preprocess import InputSpec


def test_without_evidence_the_picture_is_unchanged() -> None:
    pixels = np.arange(3 * 20 * 30, dtype=np.uint8).reshape(3, 20, 30)
    picture = blend(pixels, np.full((4, 4), -1.0, dtype=np.float32))
    assert picture.size == (30, 20)
    np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), pixels)


def test_the_strongest_evidence_shows_the_hottest_colour() -> None:
    saliency = np.zeros((4, 4), dtype=np.float32)
    saliency[0, 0] = 5.0
    shown = np.asarray(blend(np.zeros((1, 40, 40), dtype=np.uint8), saliency, alpha=1.0))
    np.testing.assert_array_equal(shown[0, 0], [252, 255, 164])
    np.testing.assert_array_equal(shown[39, 39], [0, 0, 0])


def test_a_grey_picture_and_pillows_picture_give_the_same() -> None:
    pixels = np.arange(400, dtype=np.uint8).reshape(1, 20, 20)
    saliency = np.eye(5, dtype=np.float32)
    image = Image.fromarray(pixels[0])
    assert blend(pixels, saliency).tobytes() == blend(image, saliency).tobytes()


def test_the_colour_map_grows_lighter_all_the_way() -> None:
    ramp = colours(np.linspace(0, 1, 64, dtype=np.float32)).astype(float)
    luminance = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(width=32),
    )
)
def test_heat_is_always_between_nothing_and_one(saliency: np.ndarray) -> None:
    values = heat(saliency, 13, 11)
    assert values.shape == (11, 13)
    assert values.dtype == np.float32
    assert (values >= 0).all()
    assert (values <= 1).all()


def test_heat_keeps_the_place_of_the_evidence() -> None:
    saliency = np.zeros((2, 2), dtype=np.float32)
    saliency[1, 0] = 1.0
    values = heat(saliency, 8, 8)
    assert np.unravel_index(values.argmax(), values.shape)[0] >= 4
    assert values[7, 0] == pytest.approx(1.0)
    assert values[0, 7] == pytest.approx(0.0)


def test_the_layer_over_the_picture_is_the_blend() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 30, 40), dtype=np.uint8)
    saliency = random.normal(size=(4, 5)).astype(np.float32)
    over = np.asarray(layer(saliency, 40, 30)).astype(float)
    share = 0.6 * over[..., 3:] / 255
    laid = pixels.transpose(1, 2, 0) * (1 - share) + over[..., :3] * share
    assert np.abs(laid - np.asarray(blend(pixels, saliency))).max() <= 1


def test_an_enlarged_view_keeps_its_aspect_and_can_be_seen() -> None:
    spec = InputSpec(height=100, width=160, channels=1)
    assert (enlarged(spec).height, enlarged(spec).width) == (400, 640)
    big = InputSpec(height=600, width=600, channels=3)
    assert enlarged(big) == big
