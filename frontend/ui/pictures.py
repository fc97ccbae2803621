"""A picture and its heat map, which the API sends laid over each other, taken apart and blended."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

API_OPACITY = 0.6  # of the heat map in the API's `image_png`, at its strongest

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Layers:
    """A picture uint8 [H, W, 3] and its heat map uint8 [H, W, 4], whose last channel is alpha."""

    picture: NDArray[np.uint8]
    heat: NDArray[np.uint8]


def layers(image_png: str, heatmap_png: str) -> Layers:
    """The picture without its heat map, from what the API sends as base64.

    It sends the blend and the map, and the blend can be undone: no value is off by more than
    three of 255. Raises ValueError for what does not fit together.
    """
    blend = _decoded(image_png, "RGB")
    heat = _decoded(heatmap_png, "RGBA")
    if blend.shape[:2] != heat.shape[:2]:
        raise ValueError("the picture and its heat map differ in size")
    part, colours = _parts(heat, API_OPACITY)
    picture = (blend - colours * part) / (1 - part)
    return Layers(_bytes(picture), heat)


def blended(made: Layers, opacity: float) -> Image.Image:
    """The picture under its heat map; `opacity` 0 to 1 is that of the map at its strongest."""
    part, colours = _parts(made.heat, opacity)
    return Image.fromarray(_bytes(made.picture * (1 - part) + colours * part), "RGB")


def shown(encoded: bytes) -> Image.Image | None:
    """An encoded picture to look at, where it is of a kind that needs no more than Pillow."""
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP")) as opened:
            opened.draft("RGB", (1024, 1024))
            if opened.width * opened.height > 25_000_000:
                return None
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((1024, 1024))
    return picture


def _decoded(text: str, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as opened:
            return np.asarray(opened.convert(mode))
    except (OSError, SyntaxError) as error:
        raise ValueError("the API sent no picture") from error


def _parts(heat: NDArray[np.uint8], opacity: float) -> tuple[Floats, Floats]:
    strength = heat[..., 3:].astype(np.float32) / 255
    return strength * np.float32(opacity), heat[..., :3].astype(np.float32)


def _bytes(values: Floats) -> NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
