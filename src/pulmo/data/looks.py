"""What a picture looks like in a few numbers: how the split doctor knows blank, blurred, alike."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS = 64

_HASH_SIDE, _DETAIL_SIDE, _SHARPNESS_SIDE = 32, 64, 256
_LEAST_SIDE = 16  # below it there are no details to compare
_FREQUENCIES = 8

Reals = NDArray[np.float32]


def _cosines() -> Reals:
    """Rows 1 to 8 of the discrete cosine transform (type II) of 32 values: [8, 32]."""
    at = np.arange(_HASH_SIDE) + 0.5
    waves = np.arange(1, _FREQUENCIES + 1)[:, None]
    return np.cos(np.pi * waves * at / _HASH_SIDE).astype(np.float32)


_COSINES = _cosines()


@dataclass(frozen=True)
class Look:
    """Width and height in pixels, mode of the file (L, RGB …), a perceptual hash of 64 bits, mean
    grey level and its spread (standard deviation of 32 × 32 averages), both 0 to 255, and sharpness
    (standard deviation of the Laplacian at no more than 256 pixels a side).
    """

    width: int
    height: int
    mode: str
    hash: int
    brightness: float
    contrast: float
    sharpness: float


def look(image: Image.Image, mode: str) -> Look:
    """Measure a decoded picture; `mode` is that of its file.

    The hash is pHash: signs of the 64 lowest frequencies but the constant ones against their
    median (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions).
    """
    grey = image if image.mode == "L" else image.convert("L")
    small = _shrunk(grey, _HASH_SIDE)
    waves = (_COSINES @ small @ _COSINES.T).ravel()
    bits = np.packbits(waves > np.median(waves))
    side = min(_SHARPNESS_SIDE, max(grey.size))
    return Look(
        width=image.width,
        height=image.height,
        mode=mode,
        hash=int.from_bytes(bits.tobytes(), "big"),
        brightness=round(float(small.mean()), 3),
        contrast=round(float(small.std()), 3),
        sharpness=round(float(_laplacian(_shrunk(grey, side)).std()), 3),
    )


def reduced(image: Image.Image) -> Image.Image:
    """A grey copy of no more than 64 pixels a side, for `likeness`."""
    grey = image if image.mode == "L" else image.convert("L")
    size = min(_DETAIL_SIDE, grey.width), min(_DETAIL_SIDE, grey.height)
    return grey.resize(size, Image.Resampling.BOX)


def likeness(one: Image.Image, other: Image.Image) -> float:
    """The correlation of the fine structures (Laplacians) of two reduced pictures, −1 to 1.

    That of a re-encoded copy is near 1, that of two pictures of the same kind far below, however
    alike their hashes are. Blank pictures are like nothing.
    """
    side = min(*one.size, *other.size)  # enlarged pixels would look alike whatever they show
    if side < _LEAST_SIDE:
        return 0.0
    fine = [_laplacian(_shrunk(image, side)).ravel() for image in (one, other)]
    a, b = (values - values.mean() for values in fine)
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)


def near(hashes: NDArray[np.uint64], distance: int) -> list[tuple[int, int]]:
    """All pairs i < j of hashes [n] that differ in at most `distance` bits.

    Cut into distance + 1 bands, two such hashes agree in one of them: only hashes that share a
    band are compared.
    """
    found: set[tuple[int, int]] = set()
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        mask = (1 << int(high - low)) - 1
        band = (hashes >> np.uint64(low)) & np.uint64(mask)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order])) + 1
        for group in np.split(order, starts):
            found.update(_close(hashes, group, distance))
    return sorted(found)


def _close(
    hashes: NDArray[np.uint64], group: NDArray[np.intp], distance: int
) -> list[tuple[int, int]]:
    pairs = []
    for i in range(len(group) - 1):
        rest = group[i + 1 :]  # ascending: the sort was stable
        apart = np.bitwise_count(hashes[group[i]] ^ hashes[rest])
        pairs += [(int(group[i]), int(j)) for j in rest[apart <= distance]]
    return pairs


def _shrunk(grey: Image.Image, side: int) -> Reals:
    if grey.size == (side, side):
        return np.asarray(grey, np.float32)
    return np.asarray(grey.resize((side, side), Image.Resampling.BOX), np.float32)


def _laplacian(values: Reals) -> Reals:
    middle: Reals = 4 * values[1:-1, 1:-1]
    return middle - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
