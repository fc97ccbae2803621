"""What can happen to a picture on its way to the model, in five severities.

After Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions
and perturbations", with the kinds that meet pictures of patients: noise of a low dose, motion and
poor focus, exposure and window, compression, a tilted patient, a small detector. Everything acts on
the pictures that a graph takes; equal arguments give equal pixels.
"""

import io
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pulmo.core.preprocess import Pixels
from pulmo.core.randomness import uniforms

SEVERITIES = (1, 2, 3, 4, 5)

Floats = NDArray[np.float64]
Corruption = Callable[[Image.Image, int, int], Image.Image]  # picture, severity, key

_REFERENCE_SIDE = 224  # blurs are given in pixels of a picture of this side


def corrupt(pixels: Pixels, name: str, severity: int, key: int) -> Pixels:
    """A picture uint8 [C, H, W] (C 1 or 3) changed by the corruption `name` of `CORRUPTIONS`.

    `severity` is 1 (mild) to 5; `key` (≥ 0) names the picture and decides noise and directions.
    """
    plane = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    changed = CORRUPTIONS[name](Image.fromarray(np.ascontiguousarray(plane)), severity, key)
    found = np.asarray(changed, dtype=np.uint8)
    return np.ascontiguousarray(found[None] if found.ndim == 2 else found.transpose(2, 0, 1))


def _noise(image: Image.Image, severity: int, key: int) -> Image.Image:
    deviation = (0.04, 0.06, 0.09, 0.13, 0.18)[severity - 1]
    values = np.asarray(image, dtype=np.float64) / 255
    return _image(values + deviation * _normals(key, image.height * image.width, values.shape))


def _blur(image: Image.Image, severity: int, key: int) -> Image.Image:
    radius = (0.75, 1.25, 2.0, 3.0, 4.5)[severity - 1]
    scale = max(0.5, max(image.size) / _REFERENCE_SIDE)  # less would change nothing
    return image.filter(ImageFilter.GaussianBlur(radius * scale))


def _brightness(image: Image.Image, severity: int, key: int) -> Image.Image:
    shift = (0.06, 0.12, 0.18, 0.25, 0.33)[severity - 1] * _sign(key)
    return _image(np.asarray(image, dtype=np.float64) / 255 + shift)


def _contrast(image: Image.Image, severity: int, key: int) -> Image.Image:
    share = (0.75, 0.6, 0.45, 0.3, 0.2)[severity - 1]
    values = np.asarray(image, dtype=np.float64) / 255
    middle = values.mean()
    return _image(middle + share * (values - middle))


def _gamma(image: Image.Image, severity: int, key: int) -> Image.Image:
    power = (1.25, 1.5, 1.8, 2.2, 2.8)[severity - 1] ** _sign(key)
    return _image((np.asarray(image, dtype=np.float64) / 255) ** power)


def _jpeg(image: Image.Image, severity: int, key: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=(50, 30, 18, 10, 5)[severity - 1])
    return Image.open(buffer).convert(image.mode)


def _rotation(image: Image.Image, severity: int, key: int) -> Image.Image:
    degrees = (4, 8, 13, 19, 26)[severity - 1] * _sign(key)
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def _pixelate(image: Image.Image, severity: int, key: int) -> Image.Image:
    share = (0.6, 0.45, 0.32, 0.22, 0.15)[severity - 1]
    small = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


CORRUPTIONS: MappingProxyType[str, Corruption] = MappingProxyType(
    {
        "noise": _noise,
        "blur": _blur,
        "brightness": _brightness,
        "contrast": _contrast,
        "gamma": _gamma,
        "jpeg": _jpeg,
        "rotation": _rotation,
        "pixelate": _pixelate,
    }
)


def _image(values: Floats) -> Image.Image:
    """Values about 0..1, [H, W] or [H, W, 3], as a picture; what lies beyond is cut off."""
    return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def _sign(key: int) -> int:
    """One or minus one, half of the pictures each."""
    return 1 if uniforms(0, 0, np.array([key]), 1)[0, 0] < 0.5 else -1


def _normals(key: int, count: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal numbers of a picture's grain, equal in all channels (Box and Muller 1958)."""
    draws = uniforms(0, 1, np.array([key]), 2 * count)[0]
    radius = np.sqrt(-2 * np.log(1 - draws[:count]))
    plane = (radius * np.cos(2 * np.pi * draws[count:])).reshape(shape[:2])
    return np.broadcast_to(plane if len(shape) == 2 else plane[..., None], shape)
