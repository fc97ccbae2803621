"""Every legal picture decodes to the right pixels; everything else is a DataError."""

import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pulmo.core import preprocess
from pulmo.core.preprocess import InputSpec, decode, pixel_digest, read, to_pixels
from pulmo.errors import DataError

Array = np.ndarray[Any, Any]

GREY = (np.add.outer(np.arange(16) * 3, np.arange(24) * 9) % 256).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
ORIENTATION = 0x0112
GOLDEN_DOWN = "047100a5c0333968e7434332e18a07019e2490fceb9f235966cc6b5cbe68cf24"
GOLDEN_UP = "4bd499929bb8d4b5447ebcaec2f09915ebfef5e121a2e1d645314449d51438a1"

TURNED: dict[int, Callable[[Array], Array]] = {  # EXIF 2.32, 4.6.4: what brings it upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
CONTAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
}


def encode(image: Image.Image | Array, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def grey(encoded: bytes) -> Array:
    image = decode(encoded, 1)
    assert image.mode == "L"
    return np.asarray(image)


def colour(encoded: bytes) -> Array:
    image = decode(encoded, 3)
    assert image.mode == "RGB"
    return np.asarray(image)


def luma(rgb: Array) -> Array:
    """ITU-R 601-2, as Pillow rounds it."""
    r, g, b = (rgb[..., i].astype(np.int64) for i in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colours: int, lines: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0)
    body = [chunk(b"IHDR", head), *more, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff(order: str, width: int, height: int, data: bytes, **tags: int) -> bytes:
    """One uncompressed strip; `tags` may give bits, photometric, format, fill."""
    entries = [
        (256, width), (257, height), (258, tags.get("bits", 16)), (259, 1),
        (262, tags.get("photometric", 1)), (266, tags.get("fill", 1)), (273, 8), (277, 1),
        (278, height), (279, len(data)), (339, tags.get("format", 1)),
    ]  # fmt: skip
    fields = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        for tag, value in entries
    )
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HI", 42, 8 + len(data) + len(data) % 2)
    directory = struct.pack(order + "H", len(entries)) + fields + struct.pack(order + "I", 0)
    return head + data + b"\0" * (len(data) % 2) + directory


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("orientation", TURNED)
def test_every_exif_turn_comes_out_upright(container: str, orientation: int) -> None:
    kind, options = CONTAINERS[container]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain = colour(encode(COLOUR, kind, **options))
    turned = colour(encode(COLOUR, kind, exif=exif, **options))
    np.testing.assert_array_equal(turned, TURNED[orientation](plain))


TEXT_AS_ORIENTATION = b"II*\0\x08\0\0\0\1\0\x12\1\2\0\3\0\0\0ab\0\0\0\0\0\0"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0", b"MM\0*\0\0", TEXT_AS_ORIENTATION]
)
def test_damaged_exif_does_not_make_a_picture_unreadable(exif: bytes) -> None:
    encoded = encode(GREY, "PNG", exif=exif)
    np.testing.assert_array_equal(grey(encoded), GREY)


def test_an_orientation_that_does_not_exist_is_none() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 77
    np.testing.assert_array_equal(grey(encode(GREY, "PNG", exif=exif)), GREY)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "packbits"}),
        ("WEBP", {"lossless": True}),
    ],
)  # fmt: skip
def test_lossless_grey_and_colour_keep_their_pixels(kind: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(grey(encode(GREY, kind, **options)), GREY)
    np.testing.assert_array_equal(colour(encode(COLOUR, kind, **options)), COLOUR)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}],
)
def test_jpeg_of_every_kind_stays_close(options: dict[str, Any]) -> None:
    smooth = np.add.outer(np.arange(32) * 3, np.arange(32) * 4).astype(np.uint8)
    decoded = grey(encode(smooth, "JPEG", quality=95, **options))
    assert np.abs(decoded.astype(int) - smooth).max() <= 6


def test_colour_turns_grey_by_its_luma() -> None:
    np.testing.assert_array_equal(grey(encode(COLOUR, "PNG")), luma(COLOUR))


def test_grey_turns_into_three_equal_channels() -> None:
    np.testing.assert_array_equal(colour(encode(GREY, "PNG")), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})],
)
def test_one_bit_is_black_and_white(kind: str, options: dict[str, Any]) -> None:
    bits = GREY > 100
    encoded = encode(Image.fromarray(bits), kind, **options)
    np.testing.assert_array_equal(grey(encoded), np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_palette_is_looked_up(kind: str) -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(colour(encode(image, kind)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1] = inks[..., 2] = 255  # magenta and yellow: red
    encoded = encode(Image.fromarray(inks, "CMYK"), kind, quality=100)
    red = colour(encoded).astype(int)
    assert red[..., 0].min() >= 250
    assert red[..., 1:].max() <= 5


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_tiff_of_other_colour_spaces_is_converted(mode: str) -> None:
    flat = np.full((16, 16, 3), (200, 60, 40), np.uint8)
    decoded = colour(encode(Image.fromarray(flat).convert(mode), "TIFF")).astype(int)
    assert np.abs(decoded - flat).max() <= 4


def test_transparency_is_laid_over_black() -> None:
    alpha = np.full(GREY.shape, 128, np.uint8)
    alpha[:, :12] = 0
    seen = np.where(alpha == 0, 0, np.rint(GREY * (128 / 255)))
    for layers, kind in (([GREY, alpha], "PNG"), ([GREY] * 3 + [alpha], "PNG"), ([GREY, alpha], "TIFF")):  # fmt: skip  # noqa: E501
        decoded = grey(encode(np.stack(layers, axis=2), kind)).astype(int)
        assert np.abs(decoded - seen).max() <= 1


def test_webp_transparency_is_laid_over_black() -> None:
    picture = np.dstack([COLOUR, np.zeros(GREY.shape, np.uint8)])
    assert colour(encode(picture, "WEBP", lossless=True)).max() == 0


def test_premultiplied_grey_is_what_lies_over_black() -> None:
    layers = np.dstack([GREY // 2, np.full(GREY.shape, 128, np.uint8)])
    plain, associated = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    encoded = encode(layers, "TIFF")
    assert plain in encoded
    encoded = encoded.replace(plain, associated)
    np.testing.assert_array_equal(grey(encoded), GREY // 2)


@pytest.mark.parametrize("alpha", [0, b"\x00\x80\xff"])
def test_a_palette_with_transparency_is_laid_over_black(alpha: int | bytes) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "P")
    image.putpalette([200, 200, 200, 100, 100, 100, 50, 50, 50])
    seen = grey(encode(image, "PNG", transparency=alpha)).ravel()[:3]
    assert seen.tolist() == ([0, 100, 50] if alpha == 0 else [0, 50, 50])


def test_a_transparent_colour_is_black() -> None:
    one, two = np.full((4, 4), 200, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    one[0, 0], two[0, 0] = 90, (1, 2, 3)
    assert grey(encode(one, "PNG", transparency=200)).tolist()[0] == [90, 0, 0, 0]
    assert colour(encode(two, "PNG", transparency=(200, 200, 200))).max() == 3


@pytest.mark.parametrize(
    ("depth", "colours", "line", "key", "seen"),
    [
        (1, 0, b"\x50", b"\0\1", [0, 0, 0, 0]),
        (2, 0, b"\x1b", b"\0\2", [0, 85, 0, 255]),
        (4, 0, b"\x01\x7f", b"\0\7", [0, 17, 0, 255]),
        (8, 0, b"\x00\x07\x09\xff", b"\0\7", [0, 0, 9, 255]),
        (16, 0, struct.pack(">4H", 257, 514, 771, 65535), b"\2\2", [1, 0, 3, 255]),
        (16, 2, struct.pack(">12H", *[514] * 3, *[771] * 6, *[65535] * 3), b"\2\2" * 3,
         [0, 3, 3, 255]),
    ],
)  # fmt: skip
def test_a_transparent_colour_is_meant_at_the_depth_of_the_file(
    depth: int, colours: int, line: bytes, key: bytes, seen: list[int]
) -> None:
    encoded = png((4, 1), depth, colours, b"\0" + line, chunk(b"tRNS", key))
    assert grey(encoded).tolist() == [seen]


def test_16_bit_png_keeps_its_full_range() -> None:
    wide = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(grey(encode(wide, "PNG")), GREY)
    np.testing.assert_array_equal(colour(encode(wide, "PNG")), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_keeps_its_full_range_in_both_byte_orders(order: str) -> None:
    data = (GREY.astype(np.uint16) * 257).astype(order + "u2").tobytes()
    np.testing.assert_array_equal(grey(tiff(order, 24, 16, data)), GREY)


def test_16_bit_rounds_to_the_nearest() -> None:
    data = np.array([0, 128, 129, 385, 386, 65535], "<u2").tobytes()
    assert grey(tiff("<", 6, 1, data)).tolist() == [[0, 0, 1, 1, 2, 255]]


def test_white_is_zero_is_inverted_at_every_depth() -> None:
    wide = (GREY.astype(np.uint16) * 257).astype("<u2").tobytes()
    np.testing.assert_array_equal(grey(tiff("<", 24, 16, wide, photometric=0)), 255 - GREY)
    narrow = GREY.tobytes()
    np.testing.assert_array_equal(
        grey(tiff("<", 24, 16, narrow, bits=8, photometric=0)), 255 - GREY
    )


def test_12_bit_tiff_keeps_its_full_range() -> None:
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00])  # 4095, 0, 2048, 0
    assert grey(tiff("<", 4, 1, packed, bits=12)).tolist() == [[255, 0, 128, 0]]


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.array([-100, -20, 100], "<i2"), {"bits": 16, "format": 2}),
        (np.array([-70000, -14000, 70000], "<i4"), {"bits": 32, "format": 2}),
        (np.array([0.0, 0.2, 0.5], "<f4"), {"bits": 32, "format": 3}),
    ],
)
def test_signed_wide_and_float_greys_are_scaled_by_what_they_hold(
    values: Array, options: dict[str, int]
) -> None:
    assert grey(tiff("<", 3, 1, values.tobytes(), **options)).tolist() == [[0, 102, 255]]


def test_a_flat_float_picture_is_black() -> None:
    assert grey(encode(np.full((4, 4), 3.5, np.float32), "TIFF")).max() == 0


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        decode(encode(np.full((4, 4), np.nan, np.float32), "TIFF"), 1)


def test_the_first_frame_counts() -> None:
    second = Image.fromarray(255 - GREY)
    for kind, options in (("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        encoded = encode(GREY, kind, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(grey(encoded), GREY)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match="not a picture of a known kind"):
        decode(encode(COLOUR, kind), 1)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello", b"<svg/>", b"\xff\xd8\xff", b"%PDF-1.7"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode(data, 1)


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(GREY, "PNG")
    monkeypatch.setattr(preprocess, "MAX_BYTES", len(encoded) - 1)
    with pytest.raises(DataError, match="bytes; at most"):
        decode(encoded, 1)


@pytest.mark.parametrize("size", [(5001, 5000), (10_001, 1), (1, 10_001), (20_000, 20_000)])
def test_a_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="pixels"):
        decode(png(size, 8, 0, b""), 1)


def test_a_bomb_of_metadata_is_refused() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (80 * 2**20)))
    with pytest.raises(DataError):
        decode(png((4, 1), 8, 0, b"\0abcd", text), 1)


SEEDS = [
    encode(COLOUR, "JPEG"), encode(COLOUR, "JPEG", progressive=True), encode(GREY, "PNG"),
    encode(Image.fromarray(COLOUR).quantize(8), "PNG", transparency=b"\0\x80"),
    encode(COLOUR, "WEBP"), encode(COLOUR, "WEBP", lossless=True), encode(COLOUR, "TIFF"),
    encode(COLOUR, "TIFF", compression="tiff_lzw"), encode(COLOUR, "TIFF", compression="jpeg"),
    encode(COLOUR, "BMP"), encode(GREY.astype(np.float32), "TIFF"),
]  # fmt: skip


def decodes(encoded: bytes) -> bytes | None:
    try:
        return decode(encoded, 3).tobytes()
    except DataError:
        return None


@pytest.mark.filterwarnings("ignore")
@given(st.binary(max_size=300))
@example(b"RIFF\0\0\0\0WEBPVP8X")
@example(b"II*\0\x08\0\0\0\xff\xff")
@example(b"BM" + b"\xff" * 60)
def test_any_bytes_are_a_picture_or_a_data_error(data: bytes) -> None:
    decodes(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
)
@pytest.mark.filterwarnings("ignore")
def test_a_spoilt_picture_is_a_picture_or_a_data_error(
    encoded: bytes, changes: list[tuple[int, int]]
) -> None:
    spoilt = bytearray(encoded)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    decodes(bytes(spoilt))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.floats(0, 1, exclude_max=True))
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_picture_is_never_another_picture(encoded: bytes, share: float) -> None:
    assert decodes(encoded[: int(share * len(encoded))]) in (None, decodes(encoded))


def test_warnings_that_are_errors_stay_data_errors() -> None:
    import warnings

    odd = encode(GREY, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decodes(odd[:40]) is None


def test_squash_takes_the_whole_picture_and_crop_its_centre() -> None:
    picture = np.zeros((40, 80), np.uint8)
    picture[:, :20] = picture[:, 60:] = 200
    image = Image.fromarray(picture)
    squash = to_pixels(image, InputSpec(height=8, width=8, channels=1))
    crop = to_pixels(image, InputSpec(height=8, width=8, channels=1, resize="crop"))
    assert squash.shape == crop.shape == (1, 8, 8)
    assert squash[0, :, 0].min() > 150
    assert crop.max() < 30  # the filter reaches a little beyond the box


def test_crop_keeps_the_middle_of_a_tall_picture() -> None:
    picture = np.zeros((80, 40), np.uint8)
    picture[20:60] = 255
    crop = to_pixels(
        Image.fromarray(picture), InputSpec(height=8, width=8, channels=1, resize="crop")
    )
    assert crop.min() > 220


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    spec = InputSpec(height=16, width=24, channels=3)
    pixels = read(encode(COLOUR, "PNG"), spec)
    np.testing.assert_array_equal(pixels, COLOUR.transpose(2, 0, 1))
    assert pixels.flags.c_contiguous


def test_the_pixels_of_promoted_bundles_never_change() -> None:
    down = read(encode(COLOUR, "PNG"), InputSpec(height=9, width=13, channels=3))
    up = read(encode(GREY, "PNG"), InputSpec(height=33, width=31, channels=1, resize="crop"))
    assert hashlib.sha256(down.tobytes()).hexdigest() == GOLDEN_DOWN
    assert hashlib.sha256(up.tobytes()).hexdigest() == GOLDEN_UP


def test_the_digest_is_of_the_picture_and_not_of_its_file() -> None:
    image = decode(encode(GREY, "PNG"), 1)
    assert pixel_digest(image) == pixel_digest(decode(encode(GREY, "TIFF"), 1))
    assert pixel_digest(image) == hashlib.sha256(b"L 24x16 " + GREY.tobytes()).hexdigest()
    turned = image.transpose(Image.Transpose.ROTATE_90)
    assert len({pixel_digest(i) for i in (image, turned, image.convert("RGB"))}) == 3


def large(width: int, height: int, *, colour: bool = False, turned: int = 1) -> bytes:
    """A JPEG of smooth waves, with an orientation."""
    x, y = np.meshgrid(np.arange(width) / 40, np.arange(height) / 25)
    waves = (127 + 60 * np.sin(x) + 60 * np.cos(y)).astype(np.uint8)
    pixels = np.stack([waves, waves[::-1], waves[:, ::-1]], axis=2) if colour else waves
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    return encode(pixels, "JPEG", quality=90, exif=exif)


def specs(height: int, width: int, **options: Any) -> tuple[InputSpec, InputSpec, InputSpec]:
    """By each version of the rule."""
    one = InputSpec(height=height, width=width, **{"channels": 1, **options})
    return one, *(one.model_copy(update={"preprocess": version}) for version in (2, 3))


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_scaled_jpeg_looks_like_the_whole_one(turned: int, resize: str, channels: int) -> None:
    encoded = large(640, 400, colour=channels == 3, turned=turned)
    one, *others = specs(48, 80, resize=resize, channels=channels)
    whole = read(encoded, one).astype(int)
    for spec in others:
        scaled = read(encoded, spec).astype(int)
        assert scaled.shape == (channels, 48, 80)
        assert np.abs(whole - scaled).mean() < 1.5


@pytest.mark.parametrize(
    ("size", "target", "left", "by_the_third"),
    [
        ((640, 400), (80, 50), (160, 100), (80, 50)),  # 1/4 leaves twice the target, 1/8 just that
        ((640, 400), (107, 40), (320, 200), (160, 100)),
        ((640, 400), (214, 133), (640, 400), (320, 200)),
        ((640, 400), (321, 200), (640, 400), (640, 400)),
        ((1281, 801), (80, 50), (161, 101), (161, 101)),
    ],
)
def test_enough_pixels_of_a_scaled_jpeg_remain(
    size: tuple[int, int],
    target: tuple[int, int],
    left: tuple[int, int],
    by_the_third: tuple[int, int],
) -> None:
    _, two, three = specs(target[1], target[0])
    for spec, expected in ((two, left), (three, by_the_third)):
        assert preprocess.decode_for(large(*size), spec).size == expected
        turned = preprocess.decode_for(large(size[1], size[0], turned=6), spec)
        assert turned.size == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 200), st.integers(8, 200), st.sampled_from(["squash", "crop"]))
def test_at_native_size_and_but_for_jpeg_all_rules_agree(
    width: int, height: int, resize: str
) -> None:
    one, *others = specs(max(8, int(height * 0.7)), max(8, int(width * 0.7)), resize=resize)
    encoded = large(width, height)
    small, *others_small = specs(8, 8, resize=resize)
    png_file = encode(Image.open(io.BytesIO(encoded)), "PNG")
    for spec in others:
        assert np.array_equal(read(encoded, one), read(encoded, spec))
    for spec in others_small:
        assert np.array_equal(read(png_file, small), read(png_file, spec))


def test_the_first_rule_decodes_every_pixel() -> None:
    one, *_ = specs(16, 16)
    encoded = large(640, 400)
    assert np.array_equal(read(encoded, one), to_pixels(decode(encoded, 1), one))
    assert preprocess.decode_for(encoded, one).size == (640, 400)


class Queue:
    """A lock that tells when somebody waits for it."""

    def __init__(self) -> None:
        self._lock, self.waits = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waits.set()
            assert self._lock.acquire(timeout=20)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_large_pictures_are_decoded_one_at_a_time_and_hold_up_no_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, decoding, go_on = Queue(), threading.Event(), threading.Event()
    inside, most, to_mode = 0, 0, preprocess._to_mode

    def slow(image: Image.Image, channels: int) -> Image.Image:
        nonlocal inside, most
        if image.width > 8:
            inside += 1
            most = max(most, inside)
            decoding.set()
            assert go_on.wait(20)
            inside -= 1
        return to_mode(image, channels)

    monkeypatch.setattr(preprocess, "_to_mode", slow)
    monkeypatch.setattr(preprocess, "_ONE_LARGE", queue)
    monkeypatch.setattr(preprocess, "LARGE_PIXELS", 8 * 8)
    spec = InputSpec(height=8, width=8, channels=1, preprocess=3)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(read, encode(GREY, "PNG"), spec)
        assert decoding.wait(20)
        second = threads.submit(read, encode(GREY, "PNG"), spec)
        assert queue.waits.wait(20)
        small = read(encode(GREY[:8, :8], "PNG"), spec)  # while one is decoded and another waits
        go_on.set()
        assert np.array_equal(first.result(20), second.result(20))
    np.testing.assert_array_equal(small[0], GREY[:8, :8])
    assert most == 1


@pytest.mark.parametrize(
    ("kind", "options", "large"),
    [
        ("PNG", {}, True),
        ("JPEG", {}, False),  # its decoder makes a quarter of the side
        ("JPEG", {"progressive": True}, True),
    ],
)
def test_what_is_large_is_known_by_what_decoding_takes(
    monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], large: bool
) -> None:
    monkeypatch.setattr(preprocess, "LARGE_PIXELS", 16 * 16)
    queue = Queue()
    monkeypatch.setattr(preprocess, "_ONE_LARGE", queue)
    spec = InputSpec(height=8, width=8, channels=1, preprocess=3)
    picture = encode(Image.new("L", (64, 64), 9), kind, **options)
    with ThreadPoolExecutor(1) as thread, queue:
        found = thread.submit(read, picture, spec)
        if large:
            assert queue.waits.wait(20)
        else:
            assert found.result(20).max() == 9
            assert not queue.waits.is_set()
    assert found.result(20).max() == 9
