"""Hostile, damaged and unusual bytes: a picture or a DataError, never anything else."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pulmo.core.dicom import decode
from pulmo.core.dicom_elements import MAX_ELEMENTS, read_elements, read_frame
from pulmo.core.preprocess import MAX_BYTES
from pulmo.errors import DataError

MakeDicom = Callable[..., bytes]

GREY = (np.add.outer(np.arange(24), np.arange(20)) * 5).astype(np.uint8)
PIXELS = b"\xe0\x7f\x10\x00"
ROWS = b"\x28\x00\x10\x00US\x02\x00"
SYNTAXES = (
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def files(make_dicom: MakeDicom) -> list[bytes]:
    """One file of every syntax, some with a window and a lookup table."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 8], list(range(256))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [
        make_dicom(GREY, WindowCenter=100, WindowWidth=150),
        make_dicom(GREY, VOILUTSequence=[item]),
        *(make_dicom(GREY, syntax=syntax) for syntax in SYNTAXES),
    ]


def survives(encoded: bytes) -> None:
    try:
        image = decode(encoded)
    except DataError:
        return
    assert image.mode == "L"


def before_pixels(encoded: bytes, extra: bytes) -> bytes:
    at = encoded.index(PIXELS)
    return encoded[:at] + extra + encoded[at:]


def test_only_what_the_picture_needs_is_kept(make_dicom: MakeDicom) -> None:
    syntax, data = read_elements(make_dicom(GREY))
    assert syntax == "1.2.840.10008.1.2.1"
    assert set(data.values) == {
        "SOPClassUID", "Modality", "BodyPartExamined", "SamplesPerPixel",
        "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    }  # fmt: skip


@given(noise=st.binary(max_size=600))
@quick
def test_noise_after_the_mark_is_refused(noise: bytes) -> None:
    with pytest.raises(DataError):
        decode(bytes(128) + b"DICM" + noise)


@given(which=st.integers(0, 8), share=st.floats(0, 1, exclude_max=True))
@quick
def test_a_cut_file_is_refused_or_whole_enough(
    files: list[bytes], which: int, share: float
) -> None:
    survives(files[which][: int(len(files[which]) * share)])


@given(
    which=st.integers(0, 8),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    tail=st.booleans(),
)
@quick
def test_flipped_bytes_never_surprise(
    files: list[bytes], which: int, flips: list[tuple[float, int]], tail: bool
) -> None:
    encoded = bytearray(files[which])
    start = encoded.index(PIXELS) if tail and PIXELS in encoded else 132
    for where, value in flips:
        encoded[start + int(where * (len(encoded) - 1 - start))] ^= value
    survives(bytes(encoded))


@pytest.mark.parametrize("cut", [1, 2, 9, 100, 479, 480, 485, 492])
def test_a_file_that_ends_early_says_so(make_dicom: MakeDicom, cut: int) -> None:
    with pytest.raises(DataError, match=r"cut short|no picture"):
        decode(make_dicom(GREY)[:-cut])


@pytest.mark.parametrize("length", [1, 4, 0x7FFFFFFF])
def test_a_wrong_length_of_the_pixels_is_refused(make_dicom: MakeDicom, length: int) -> None:
    encoded = make_dicom(GREY)
    at = encoded.index(PIXELS) + 8
    with pytest.raises(DataError, match=r"cut short|bytes of pixels"):
        decode(encoded[:at] + struct.pack("<I", length) + encoded[at + 4 :])


def test_a_wrong_length_of_a_number_is_refused(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(GREY)
    at = encoded.index(ROWS)
    longer = encoded[:at] + ROWS[:6] + b"\x04\x00\x18\x00\x18\x00" + encoded[at + 10 :]
    with pytest.raises(DataError, match="Rows, or one of a wrong length"):
        decode(longer)


@pytest.mark.parametrize("word", ["nan", "inf", "1e999", "twelve"])
def test_a_number_that_is_none_is_refused_unrepeated(make_dicom: MakeDicom, word: str) -> None:
    encoded = make_dicom(GREY, WindowCenter="123456", WindowWidth="100")
    with pytest.raises(DataError, match=r"WindowCenter .* not a finite number") as caught:
        decode(encoded.replace(b"123456", word.ljust(6).encode()))
    assert word not in str(caught.value)


def test_the_depth_of_sequences_costs_nothing(make_dicom: MakeDicom) -> None:
    depth = 20_000
    opened = (
        b"\x27\x00\x01\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ) * depth
    closed = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
    nested = before_pixels(make_dicom(GREY), opened + closed)
    assert decode(nested).tobytes() == GREY.tobytes()
    with pytest.raises(DataError, match="cut short"):
        decode(before_pixels(make_dicom(GREY), opened))


def test_the_number_of_elements_is_bounded(make_dicom: MakeDicom) -> None:
    crowd = b"\x27\x00\x01\x00LO\x00\x00" * (MAX_ELEMENTS + 1)
    with pytest.raises(DataError, match="more than 100,000 elements"):
        decode(before_pixels(make_dicom(GREY), crowd))


def test_the_number_of_fragments_is_bounded(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(GREY, syntax=RLELossless)
    crowd = b"\xfe\xff\x00\xe0\0\0\0\0" * MAX_ELEMENTS
    with pytest.raises(DataError, match="more than 100,000 elements"):
        decode(encoded[:-8] + crowd + encoded[-8:])


def test_fragments_are_joined_and_must_be_items() -> None:
    def item(value: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value)) + value

    assert read_frame(item(b"") + item(b"ab") + item(b"cd")) == b"abcd"
    assert read_frame(b"") == b""
    for wrong in (b"\xe0\x7f\x10\x00\0\0\0\0", item(b"") + item(b"abcd")[:-1]):
        with pytest.raises(DataError, match="cut short"):
            read_frame(wrong)


def test_an_unfinished_pixel_element_is_refused(make_dicom: MakeDicom) -> None:
    with pytest.raises(DataError, match="cut short"):
        decode(make_dicom(GREY, syntax=RLELossless)[:-8])


def test_a_bomb_is_not_inflated(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(GREY, syntax=DeflatedExplicitVRLittleEndian)
    _, end = encoded.split(b"1.2.840.10008.1.2.1.99", 1)
    meta = len(encoded) - len(end)
    tail = 144 + struct.unpack_from("<I", encoded, 140)[0]  # the end of the file's meta elements
    assert tail > meta
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(2**20)
    bomb = b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(DataError, match=f"inflates to more than {MAX_BYTES:,} bytes"):
        decode(encoded[:tail] + bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_BYTES
    with pytest.raises(DataError, match="damaged"):
        decode(encoded[:tail] + b"\xff" * 50)


def test_sequences_of_undefined_length_are_read_and_stepped_over(make_dicom: MakeDicom) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 8], list(range(255, -1, -1))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    item.is_undefined_length_sequence_item = True
    encoded = make_dicom(GREY, VOILUTSequence=[item])
    at = encoded.index(b"\x28\x00\x10\x30SQ")
    (length,) = struct.unpack_from("<I", encoded, at + 8)
    ended = encoded[at + 12 : at + 12 + length] + b"\xfe\xff\xdd\xe0\0\0\0\0"
    undefined = encoded[: at + 8] + b"\xff\xff\xff\xff" + ended + encoded[at + 12 + length :]
    for file in (encoded, undefined):
        assert decode(file).tobytes() == (255 - GREY).tobytes()


def test_table_entries_may_be_single_bytes(make_dicom: MakeDicom) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 8], bytes(range(255, -1, -1))
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    assert decode(make_dicom(GREY, VOILUTSequence=[item])).tobytes() == (255 - GREY).tobytes()


def test_elements_without_a_type_inside_explicit_files_are_stepped_over(
    make_dicom: MakeDicom,
) -> None:
    inner = b"\x10\x00\x10\x00" + struct.pack("<I", 6) + b"CANARY"
    sequence = (
        b"\x27\x00\x01\x00UN\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        + inner
        + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    )
    assert decode(before_pixels(make_dicom(GREY), sequence)).tobytes() == GREY.tobytes()
