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
    """Values [...] in [0, 1] as colours uint8 [..., 3]."""
    stops = np.linspace(0.0, 1.0, len(_ANCHORS))
    channels = [np.interp(values, stops, _ANCHORS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def blend(pixels: Pixels | Image.Image, saliency: NDArray[Any], alpha: float = 0.6) -> Image.Image:
    """A picture (uint8 [C, H, W] or Pillow's) under its heat map, as RGB of the picture's size.

    A spot with the strongest evidence shows the share `alpha` of the map's colour, a spot without
    evidence shows the picture unchanged.
    """
    picture = pixels if isinstance(pixels, Image.Image) else _to_image(pixels)
    below = np.asarray(picture.convert("RGB"), dtype=np.float32)
    strength = heat(saliency, picture.width, picture.height)
    share = (alpha * strength)[..., None]
    mixed = below * (1 - share) + colours(strength).astype(np.float32) * share
    return Image.fromarray(np.rint(mixed).astype(np.uint8), "RGB")


def layer(saliency: NDArray[Any], width: int, height: int) -> Image.Image:
    """The heat map alone, RGBA [height, width]: where there is no evidence it is transparent.

    Laid over the picture with an opacity of `alpha` it gives what `blend` draws.
    """
    strength = heat(saliency, width, height)
    alpha = np.rint(strength * 255).astype(np.uint8)[..., None]
    return Image.fromarray(np.concatenate([colours(strength), alpha], axis=-1), "RGBA")


def enlarged(spec: InputSpec) -> InputSpec:
    """The same view of a picture, at a multiple of the graph's resolution that people can see."""
    times = -(-SIDE // max(spec.height, spec.width))
    return spec.model_copy(update={"height": spec.height * times, "width": spec.width * times})


def _to_image(pixels: Pixels) -> Image.Image:
    plain = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(plain))
