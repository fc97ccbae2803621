"""Compressed frames that lie about themselves."""

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagecodecs import jpeg8_encode
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pulmo.core.dicom import decode
from pulmo.errors import DataError

MakeDicom = Callable[..., bytes]

GREY = (np.add.outer(np.arange(24), np.arange(20)) * 5).astype(np.uint8)


def picture(mode: str, size: tuple[int, int], form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGBaseline8Bit, picture("L", (9000, 9000), "JPEG")),
        (JPEGBaseline8Bit, picture("RGB", (20, 24), "JPEG")),
        (JPEG2000Lossless, picture("L", (2000, 2000), "JPEG2000", no_jp2=True)),
        (JPEG2000Lossless, picture("RGB", (20, 24), "JPEG2000", no_jp2=True)),
        (
            JPEGLSLossless,
            b"\xff\xd8\xff\xf7\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xda\0\0",
        ),
    ],
)
def test_a_frame_of_another_size_is_refused_before_it_is_decoded(
    make_dicom: MakeDicom, syntax: Any, frame: bytes
) -> None:
    encoded = make_dicom(GREY, syntax=syntax, frame=frame)
    tracemalloc.start()
    with pytest.raises(DataError, match="another size"):
        decode(encoded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2000,
        b"\xff\xd8" + b"\xff\xda\x00\x02" * 2000,
        b"\xff\xd8" + b"\xff\xc0\x00\x0b\x08\x00\x18\x00\x14\x01\x01\x11\x00" * 2000,
    ],
    ids=["no size", "no size before a scan", "many sizes"],
)
def test_a_frame_without_one_clear_header_is_refused(make_dicom: MakeDicom, frame: bytes) -> None:
    with pytest.raises(DataError, match="no clear header"):
        decode(make_dicom(GREY, syntax=JPEGBaseline8Bit, frame=frame))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless])
def test_a_damaged_frame_is_refused_by_the_name_of_its_syntax(
    make_dicom: MakeDicom, syntax: Any
) -> None:
    whole = make_dicom(GREY, syntax=syntax)
    start = whole.index(b"\xff\xd8" if syntax != JPEG2000Lossless else b"\xff\x4f\xff\x51")
    frame = whole[start:-8]
    header = frame.index(b"\xff\xda" if syntax != JPEG2000Lossless else b"\xff\x93") + 14
    with pytest.raises(DataError, match=r"the JPEG.* data of the DICOM file are damaged.*convert"):
        decode(make_dicom(GREY, syntax=syntax, frame=frame[: min(header, len(frame) - 20)]))


DEEP = GREY.astype(np.uint16) * 16
EXACT = bytes(jpeg8_encode(DEEP, lossless=True, predictor=1, bitspersample=12))


def test_what_follows_the_end_of_a_lossless_frame_may_only_fill(make_dicom: MakeDicom) -> None:
    plain = np.asarray(decode(make_dicom(DEEP, BitsStored=12)))
    for filling in (b"", b"\0", b"\xff"):
        file = make_dicom(DEEP, BitsStored=12, syntax=JPEGLosslessSV1, frame=EXACT + filling)
        np.testing.assert_array_equal(np.asarray(decode(file)), plain)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGLosslessSV1, EXACT[:-20]),
        (JPEGLosslessSV1, EXACT[:-20] + b"\xff\xd9" + EXACT[-20:]),
        (JPEGLosslessSV1, EXACT.replace(b"\xff\xc4", b"\xff\xfe")),
        (JPEGLosslessSV1, bytes(jpeg8_encode(DEEP, level=90, bitspersample=12))),
        (JPEGExtended12Bit, EXACT),
    ],
    ids=["cut", "an end in between", "no table", "not lossless", "lossless"],
)
def test_a_damaged_or_other_wide_frame_is_refused(
    make_dicom: MakeDicom, syntax: Any, frame: bytes
) -> None:
    with pytest.raises(DataError, match=r"the JPEG.* damaged or of a kind that is not read"):
        decode(make_dicom(DEEP, BitsStored=12, syntax=syntax, frame=frame))


def test_wide_samples_in_narrow_pixels_are_refused(make_dicom: MakeDicom) -> None:
    with pytest.raises(DataError, match="of a kind that is not read"):
        decode(make_dicom(GREY, syntax=JPEGLosslessSV1, frame=EXACT))


def test_a_twelve_bit_file_of_another_maker_is_read() -> None:
    path = str(get_testdata_file("JPGExtended.dcm", download=False))
    image = decode(Path(path).read_bytes())
    assert image.size == (256, 1024)
    assert np.asarray(image).max() > 0


def test_jpeg_ls_without_an_end_does_not_hang(make_dicom: MakeDicom) -> None:
    """A frame on which the decoder alone searches some four thousand million bits."""
    frame = (
        bytes.fromhex(
            "ffd8fff7000b080030002801011100ffda0008010100000000bff7dbff76ff7fff7fff7ffd134abfff7f0074"
        )
        + b"\xff\x7f\xff\x77"
        + b"\xff\x7f" * 20
    )
    with pytest.raises(DataError, match="JPEG-LS"):
        decode(make_dicom(np.zeros((48, 40), np.uint8), syntax=JPEGLSLossless, frame=frame))


def rle(*segments: bytes, count: int | None = None, shift: int = 0) -> bytes:
    starts = [64 + sum(map(len, segments[:i])) + shift for i in range(len(segments))]
    header = [len(segments) if count is None else count, *starts]
    return struct.pack("<16I", *header, *[0] * (16 - len(header))) + b"".join(segments)


def test_runs_may_cross_rows(make_dicom: MakeDicom) -> None:
    segment = b"\x81\x07" * 3 + b"\x80" + b"\x9f\x07" + b"\x02\x01\x02\x03"
    expected = bytes([7]) * 482
    frame = rle(segment)
    shown = decode(make_dicom(GREY, syntax=RLELossless, frame=frame)).tobytes()
    assert shown[: 3 * 128 + 96] == expected[:480]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (rle(b"\x81\x07" * 2), "damaged"),
        (rle(b"\x81\x07" * 4, shift=10_000), "damaged"),
        (rle(b"\x81\x07" * 4, count=2), "number of segments"),
        (rle(b"", count=0xFFFFFFFF), "number of segments"),
        (b"CANARY", "cut short"),
    ],
)
def test_damaged_runs_are_refused(make_dicom: MakeDicom, frame: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode(make_dicom(GREY, syntax=RLELossless, frame=frame))


def test_a_bomb_of_runs_is_not_unpacked(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(GREY, syntax=RLELossless, frame=rle(b"\x81\x07" * 4_000_000))
    tracemalloc.start()
    assert decode(encoded).tobytes() == bytes([7]) * GREY.size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20  # unpacked it would be 512 MB
