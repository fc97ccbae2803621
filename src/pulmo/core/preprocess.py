"""Encoded bytes to uint8 pixels: the only definition, shared by training and serving.

A rule, once used by a promoted bundle, never changes its pixels: a better rule is a new
`preprocess` version beside the old one.
"""

import hashlib
import importlib
import io
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from pulmo.core.dicom_spec import DicomSpec
from pulmo.core.loading import LOADING
from pulmo.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"})
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 25_000_000
MAX_SIDE = 10_000
LARGE_PIXELS = 4_000_000  # what has more, as it is decoded, is large

Pixels = NDArray[np.uint8]

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
_READERS = (
    *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Jpeg", "Png", "Tiff", "WebP")),
    "pulmo.core.dicom",
    "pydicom.pixels.decoders.base",
    "imagecodecs._jpeg8",
)
_ROOM = {2: 1.5, 3: 1.0}  # by version; what is left is averaged over by the resizing
_PHOTOMETRIC_TAG, _BITS_TAG = 262, 258
_WHITE_IS_ZERO = 0
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_ONE_LARGE = threading.Lock()


class InputSpec(BaseModel):
    """The picture that a graph takes, uint8 [channels, height, width], and how it is made.

    `preprocess` 1 decodes every pixel. 2 lets JPEG files that are much larger than what the graph
    takes be scaled down by their decoder, which costs half as much, and 3 those that are twice as
    large or more; others give the same pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=8, le=2048)
    width: int = Field(ge=8, le=2048)
    channels: Literal[1, 3]
    resize: Literal["squash", "crop"] = "squash"
    dicom: DicomSpec | None = None
    preprocess: Literal[1, 2, 3] = 1


def preload() -> None:
    """Load the readers of every kind of picture, as otherwise the first of each kind would do."""
    with LOADING:
        for name in _READERS:
            importlib.import_module(name)


def decode(encoded: bytes, channels: int, dicom: DicomSpec | None = None) -> Image.Image:
    """The first frame of an encoded picture, upright, as mode L (`channels` 1) or RGB (3).

    12- and 16-bit greys keep their full range (scaled, not clipped), 32-bit and float ones the
    range that the picture holds; transparency is laid over black. A DICOM file is shown as a
    viewer shows it where `dicom` allows it. Raises DataError for anything that is no whole picture
    of an allowed format and size.
    """
    return _decode(encoded, channels, dicom, None)


def decode_for(encoded: bytes, spec: InputSpec) -> Image.Image:
    """As `decode`, as large as `to_pixels` needs it by the rule of `spec`. Raises DataError.

    Large pictures are decoded one at a time, as some take hundreds of megabytes meanwhile.
    """
    return _decode(encoded, spec.channels, spec.dicom, spec)


def _decode(
    encoded: bytes, channels: int, dicom: DicomSpec | None, spec: InputSpec | None
) -> Image.Image:
    if is_dicom(encoded):
        # Imported where it is needed: it reads this module's limits, and few pictures are DICOM.
        from pulmo.core import dicom as reader

        grey = reader.decode(encoded, **(dicom.model_dump() if dicom is not None else {}))
        return grey if channels == 1 else grey.convert("RGB")
    if len(encoded) > MAX_BYTES:
        raise DataError(f"the file has {len(encoded):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _check_size(*image.size)
            _scale_key(image)
            claimed = image.width * image.height
            if spec is not None and spec.preprocess > 1:
                _scale_down(image, spec)
            large = spec is not None and _is_large(image, claimed)
            with _ONE_LARGE if large else nullcontext():
                image.load()
                turn = _turn(image)
                plain = _to_mode(image, channels)
                return plain.transpose(turn) if turn is not None else plain
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not a picture of a known kind ({', '.join(FORMATS)}, DICOM)") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"the picture is damaged or cannot be decoded ({reason})") from error


def to_pixels(image: Image.Image, spec: InputSpec) -> Pixels:
    """A decoded picture as uint8 [channels, height, width], resized by the rule of `spec`.

    `squash` ignores the aspect ratio; `crop` takes the largest centred box of the target's
    aspect. Both average over the source area (Pillow's bilinear filter).
    """
    box = None
    if spec.resize == "crop":
        box = _centre_box(image.width, image.height, spec.width / spec.height)
    resized = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def read(encoded: bytes, spec: InputSpec) -> Pixels:
    """Encoded bytes to uint8 [channels, height, width]. Raises DataError."""
    return to_pixels(decode_for(encoded, spec), spec)


def is_dicom(encoded: bytes) -> bool:
    """Whether the first bytes say DICOM, with or without the preamble of 128 bytes."""
    return encoded[128:132] == b"DICM" or encoded[:8] == b"\x02\0\0\0UL\x04\0"


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture; DICOM files often have no suffix, or the
    end of an identifier in its place, so that their first bytes are looked at.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or (suffix and not suffix[1:].isdecimal()):
        return suffix in SUFFIXES
    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(132))
    except OSError:
        return False


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 over size, mode and pixels of a decoded picture, whatever file it came in."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def mode_of(encoded: bytes) -> str:
    """How a readable picture is stored: Pillow's name of its mode, or DICOM."""
    if is_dicom(encoded):
        return "DICOM"
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        return image.mode


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"the picture claims {width}×{height} pixels; at most {MAX_PIXELS:,} pixels and "
            f"{MAX_SIDE:,} a side are read"
        )


def _scale_down(image: Image.Image, spec: InputSpec) -> None:
    """Let the decoder of a JPEG scale by 1/2, 1/4 or 1/8 (of each 8×8 block fewer frequencies are
    transformed back), as long as by `_ROOM` enough of the pixels that the graph takes remain a
    side.
    """
    width, height = spec.width, spec.height
    if width != height and _turn(image) in _ON_THE_SIDE:
        width, height = height, width
    left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
    if spec.resize == "crop":
        left, top, right, bottom = _centre_box(image.width, image.height, width / height)
    needed = _ROOM[spec.preprocess]
    room = min((right - left) / (needed * width), (bottom - top) / (needed * height))
    scale = next((scale for scale in (8, 4, 2) if scale <= room), 1)
    if scale > 1:  # Pillow has no method `draft` that does anything but for JPEG
        image.draft(None, (image.width // scale, image.height // scale))


def _is_large(image: Image.Image, claimed: int) -> bool:
    """Whether decoding takes much memory; progressive JPEG takes it before it is scaled down."""
    pixels = claimed if "progressive" in image.info else image.width * image.height
    return pixels > LARGE_PIXELS


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a loaded picture upright (EXIF 2.32, 4.6.4); TIFF ones are turned already."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  damaged metadata does not make a picture unreadable
        return None


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.mode == "La":  # multiplied by its alpha already: that is how it lies over black
        image = image.getchannel(0)
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image).convert("RGB")
    return image if image.mode == mode else image.convert("RGB").convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Wide grey modes as L: 16-bit by their full range, others by what the picture holds."""
    tags = getattr(image, "tag_v2", {})  # TIFF alone has them
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        top = 4095 if tuple(tags.get(_BITS_TAG, ())) == (12,) else 65535
        scale = np.minimum(np.rint(np.arange(65536) * (255.0 / top)), 255).astype(np.uint8)
        grey = scale[values]
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey[values == key] = 0
    else:
        wide = values.astype(np.float64)
        if not np.isfinite(wide).all():
            raise DataError("the picture holds values that are not finite")
        wide -= wide.min()
        wide *= 255.0 / max(float(wide.max()), 1e-12)
        grey = np.rint(wide, out=wide).astype(np.uint8)
    return Image.fromarray(~grey if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO else grey)


def _scale_key(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG from the depth of the file to the 8 bits of Pillow."""
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", ())  # how the file's pixels are packed
    depth = str(tiles[0].args) if image.format == "PNG" and tiles else ""
    if isinstance(key, int) and depth in _GREY_STEPS:
        image.info["transparency"] = key * _GREY_STEPS[depth]
    elif isinstance(key, tuple) and depth == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _centre_box(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    crop_width = min(float(width), height * aspect)
    crop_height = min(float(height), width / aspect)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height
