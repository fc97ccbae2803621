"""A heat map laid over the picture it explains."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pulmo.core.preprocess import InputSpec, Pixels

SIDE = 512  # the longer side in pixels, at least, of a picture that is shown with its heat map

# Anchors of the colour map "inferno" (van der Walt and Smith 2015), whose lightness rises evenly.
_ANCHORS = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    dtype=np.float64,
)
_STOPS, _LEVELS = np.linspace(0.0, 1.0, len(_ANCHORS)), np.linspace(0.0, 1.0, 256)
_COLOURS = np.rint(
    np.stack([np.interp(_LEVELS, _STOPS, channel) for channel in _ANCHORS.T], axis=-1)
).astype(np.uint8)


def heat(saliency: NDArray[Any], width: int, height: int) -> NDArray[np.float32]:
    """A class activation map [h, w] as float32 [height, width] in [0, 1]: evidence for, only.

    What speaks against the class is cut off, the strongest evidence is 1. No evidence gives zeros.
    """
    positive = np.maximum(np.nan_to_num(saliency, posinf=0.0), 0.0).astype(np.float32)
    peak = positive.max(initial=0.0)
    if peak > 0:
        positive /= peak
    small = Image.fromarray(positive, mode="F")
    resized = small.resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized, dtype=np.float32), 0.0, 1.0)


def colours(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values [...] in [0, 1] as uint8 [..., 3], one of 256 colours."""
    found: NDArray[np.uint8] = _COLOURS[_level(values)]
    return found


def blend(pixels: Pixels | Image.Image, saliency: NDArray[Any], alpha: float = 0.6) -> Image.Image:
    """A picture (uint8 [C, H, W] or Pillow's) under its heat map, as RGB of the picture's size.

    A spot with the strongest evidence shows the share `alpha` of the map's colour, a spot without
    evidence shows the picture unchanged.
    """
    picture = pixels if isinstance(pixels, Image.Image) else _to_image(pixels)
    strength = heat(saliency, picture.width, picture.height)
    mask, below = Image.fromarray(_level(alpha * strength)), picture.convert("RGB")
    below.info.clear()  # a profile or a transparent colour is not the drawing's
    return Image.composite(Image.fromarray(colours(strength)), below, mask)


def layer(saliency: NDArray[Any], width: int, height: int) -> Image.Image:
    """The heat map alone, RGBA [height, width]: where there is no evidence it is transparent.

    Laid over the picture with an opacity of `alpha` it gives what `blend` draws.
    """
    strength = heat(saliency, width, height)
    drawn = Image.fromarray(colours(strength))
    drawn.putalpha(Image.fromarray(_level(strength)))
    return drawn


def enlarged(spec: InputSpec) -> InputSpec:
    """The same view of a picture, at a multiple of the graph's resolution that people can see."""
    times = -(-SIDE // max(spec.height, spec.width))
    return spec.model_copy(update={"height": spec.height * times, "width": spec.width * times})


def _level(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values in [0, 1] as whole numbers of 255ths."""
    return np.rint(values * 255).astype(np.uint8)


def _to_image(pixels: Pixels) -> Image.Image:
    plain = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(plain))
