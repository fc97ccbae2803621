import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from ui import pictures
from ui.api import Api

from pulmo.core.overlay import blend, heat, layer


def packed(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return Image.fromarray(values, "RGB")


@pytest.fixture
def made(picture: Image.Image) -> pictures.Layers:
    """As the API sends them, by its own code."""
    saliency = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    return pictures.layers(packed(blend(picture, saliency)), packed(layer(saliency, 96, 96)))


def test_the_blend_is_undone(picture: Image.Image, made: pictures.Layers) -> None:
    off = np.abs(made.picture.astype(int) - np.asarray(picture).astype(int))
    assert off.max() <= 3
    assert off[made.heat[..., 3] == 0].max() == 0


def test_opacity_goes_from_the_picture_to_the_map(made: pictures.Layers) -> None:
    assert np.array_equal(np.asarray(pictures.blended(made, 0)), made.picture)
    full = np.asarray(pictures.blended(made, 1))
    strongest = made.heat[..., 3] == 255
    assert strongest.any()
    assert np.array_equal(full[strongest], made.heat[..., :3][strongest])


def test_at_its_own_opacity_the_api_is_met(picture: Image.Image) -> None:
    saliency = np.eye(6, dtype=np.float32)
    sent = blend(picture, saliency)
    made = pictures.layers(packed(sent), packed(layer(saliency, 96, 96)))
    again = pictures.blended(made, pictures.API_OPACITY)
    assert np.abs(np.asarray(again).astype(int) - np.asarray(sent).astype(int)).max() <= 2
    assert heat(saliency, 96, 96).max() == 1


def test_a_real_answer_comes_apart(open_api: str, grey_png: Callable[[int], bytes]) -> None:
    answer = Api(open_api).predict(grey_png(200), explain=True)
    made = pictures.layers(answer["image_png"], answer["heatmap_png"])
    assert made.picture.shape == (512, 512, 3)
    assert np.abs(made.picture.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("sent", ["", "AAAA", "!"])
def test_what_is_no_picture_is_told(sent: str, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="no picture"):
        pictures.layers(packed(picture), sent)


def test_layers_must_be_of_one_size(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="size"):
        pictures.layers(packed(picture), packed(picture.resize((8, 8))))


def test_only_plain_pictures_are_shown(picture: Image.Image) -> None:
    shown = pictures.shown(base64.b64decode(packed(picture.resize((2000, 1000)))))
    assert shown is not None
    assert (shown.size, shown.mode) == ((1024, 512), "RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    assert pictures.shown(buffer.getvalue()) is None
    assert pictures.shown(b"torn") is None
    assert pictures.shown(base64.b64decode(packed(picture))[:200]) is None
    huge = io.BytesIO()
    Image.new("1", (6000, 5000)).save(huge, "PNG")
    assert pictures.shown(huge.getvalue()) is None
