"""Display values against pydicom's own, what is refused and why, and that no name gets out."""

import io
import logging
import os
import traceback
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pulmo.core import preprocess
from pulmo.core.dicom import DicomSpec, decode, is_dicom
from pulmo.errors import DataError

MakeDicom = Callable[..., bytes]

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # meant

CHEST = DicomSpec(modalities=("CR", "DX", "RG"), body_parts=("CHEST", "THORAX", "LUNG"))
GREY8 = np.random.default_rng(1).integers(0, 256, (12, 10), dtype=np.uint8)
GREY12 = np.random.default_rng(2).integers(100, 3900, (12, 10), dtype=np.uint16)
SIGNED = (GREY12.astype(np.int16) - 2000).astype(np.int16)
SMOOTH = (np.add.outer(np.arange(48), np.arange(40)) * 2).astype(np.uint8)

_jpeg = io.BytesIO()
Image.fromarray(GREY8).save(_jpeg, "JPEG")
JPEG = _jpeg.getvalue()


def pixels(encoded: bytes, **suits: Any) -> NDArray[np.uint8]:
    image = decode(encoded, **suits)
    assert image.mode == "L"
    return np.asarray(image)


def displayed(encoded: bytes) -> NDArray[np.uint8]:
    """The same picture by pydicom's own functions, brightness over the range of the file."""
    data = dcmread(io.BytesIO(encoded))
    values = apply_modality_lut(data.pixel_array, data)
    signed = data.PixelRepresentation == 1
    codes = np.arange(1 << data.BitsStored) - (1 << (data.BitsStored - 1)) * signed
    if "VOILUTSequence" in data:
        shown = apply_voi_lut(values.astype(np.int64), data)
        low, high = 0, (1 << data.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif "WindowWidth" in data:
        shown = apply_voi_lut(values, data)
        everything = apply_modality_lut(codes, data)
        low, high = everything.min(), everything.max()
    else:
        shown = values
        reach = apply_modality_lut(codes, data) if data.BitsStored <= 8 else values
        low, high = reach.min(), reach.max()
    grey = np.rint((shown.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    return 255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey


def table(values: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = values
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item["LUTData"].VR = "US"
    return item


RAMP = [min(value // 3, 1023) for value in range(4096)]
SETTINGS: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "8 bits": (GREY8, {}),
    "8 bits inverted": (GREY8, {"PhotometricInterpretation": "MONOCHROME1"}),
    "8 bits with rescale": (GREY8, {"RescaleSlope": -1, "RescaleIntercept": 255}),
    "8 bits signed": (GREY8.view(np.int8), {}),
    "6 of 8 bits": (GREY8 // 4, {"BitsStored": 6}),
    "8 of 16 bits": (GREY8.astype(np.uint16), {"BitsStored": 8}),
    "12 bits": (GREY12, {"BitsStored": 12}),
    "12 bits inverted": (GREY12, {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}),
    "16 bits": (GREY12 * 16, {}),
    "16 bits signed": (SIGNED, {}),
    "12 bits signed with rescale": (
        SIGNED,
        {"BitsStored": 12, "RescaleSlope": "1.5", "RescaleIntercept": "-1024"},
    ),
    "window": (GREY12, {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1500}),
    "first of two windows": (
        GREY12,
        {"BitsStored": 12, "WindowCenter": [900, 3000], "WindowWidth": [800, 100]},
    ),
    "window of width 1": (GREY12, {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1}),
    "exact window": (
        SIGNED,
        {
            "BitsStored": 12,
            "WindowCenter": -100,
            "WindowWidth": "0.5",
            "VOILUTFunction": "LINEAR_EXACT",
        },
    ),
    "sigmoid inverted": (
        GREY12,
        {
            "BitsStored": 12,
            "WindowCenter": 2000,
            "WindowWidth": 1500,
            "VOILUTFunction": "SIGMOID",
            "PhotometricInterpretation": "MONOCHROME1",
        },
    ),
    "window after rescale": (
        GREY12,
        {
            "BitsStored": 12,
            "RescaleSlope": 2,
            "RescaleIntercept": -1000,
            "WindowCenter": 2000,
            "WindowWidth": 3000,
        },
    ),
    "VOI table": (GREY12, {"BitsStored": 12, "VOILUTSequence": [table(RAMP, 0, 10)]}),
    "VOI table of signed values": (
        SIGNED,
        {"BitsStored": 12, "VOILUTSequence": [table(RAMP[:2000], -1500, 10)]},
    ),
    "modality table": (GREY12, {"BitsStored": 12, "ModalityLUTSequence": [table(RAMP, 200, 16)]}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_grey_is_what_pydicom_would_show(make_dicom: MakeDicom, setting: str, syntax: Any) -> None:
    stored, elements = SETTINGS[setting]
    encoded = make_dicom(stored, **({"syntax": syntax} if syntax else {}), **elements)
    np.testing.assert_array_equal(pixels(encoded), displayed(encoded))


def test_eight_bits_are_shown_as_they_are(make_dicom: MakeDicom) -> None:
    np.testing.assert_array_equal(pixels(make_dicom(GREY8)), GREY8)
    inverted = make_dicom(GREY8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(pixels(inverted), 255 - GREY8)


def test_wide_pictures_span_black_to_white(make_dicom: MakeDicom) -> None:
    shown = pixels(make_dicom(GREY12))
    assert (shown.min(), shown.max()) == (0, 255)


def test_padding_is_black_and_does_not_count(make_dicom: MakeDicom) -> None:
    stored = GREY12.copy()
    stored[0], stored[1] = 4095, 4090
    elements = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}
    plain = pixels(make_dicom(GREY12[2:], **elements))
    padded = make_dicom(stored, PixelPaddingValue=4095, PixelPaddingRangeLimit=4090, **elements)
    shown = pixels(padded)
    assert not shown[:2].any()
    np.testing.assert_array_equal(shown[2:], plain)


def test_nothing_but_padding_is_refused(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(np.full((4, 4), 7, np.uint16), PixelPaddingValue=7)
    with pytest.raises(DataError, match="nothing but padding"):
        decode(encoded)


def test_a_flat_picture_is_black(make_dicom: MakeDicom) -> None:
    assert not pixels(make_dicom(np.full((4, 4), 777, np.uint16))).any()


@pytest.mark.parametrize(
    ("syntax", "stored", "elements", "apart"),
    [
        (DeflatedExplicitVRLittleEndian, GREY12, {"BitsStored": 12}, 0),
        (RLELossless, GREY8, {}, 0),
        (RLELossless, GREY12, {"BitsStored": 12}, 0),
        (RLELossless, SIGNED, {}, 0),
        (JPEGLSLossless, GREY8, {}, 0),
        (JPEGLSLossless, GREY12, {"BitsStored": 12}, 0),
        (JPEGLSLossless, SIGNED, {"BitsStored": 12}, 0),
        (JPEGLossless, GREY8, {}, 0),
        (JPEGLossless, GREY12, {"BitsStored": 12}, 0),
        (JPEGLosslessSV1, GREY12, {"BitsStored": 12}, 0),
        (JPEGLosslessSV1, GREY12, {"BitsStored": 14}, 0),
        (JPEGLosslessSV1, GREY12, {}, 0),
        (JPEGLosslessSV1, SIGNED, {"BitsStored": 12}, 0),
        (JPEGExtended12Bit, SMOOTH.astype(np.uint16) * 16, {"BitsStored": 12}, 1),
        (JPEG2000Lossless, GREY8, {}, 0),
        (JPEG2000Lossless, GREY12, {}, 0),
        (JPEG2000, SMOOTH, {}, 2),
        (JPEGBaseline8Bit, SMOOTH, {}, 2),
    ],
)
def test_every_syntax_gives_the_same_picture(
    make_dicom: MakeDicom,
    syntax: Any,
    stored: NDArray[Any],
    elements: dict[str, Any],
    apart: int,
) -> None:
    plain = pixels(make_dicom(stored, **elements)).astype(int)
    packed = pixels(make_dicom(stored, syntax=syntax, **elements))
    assert np.abs(plain - packed).max() <= apart


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGBaseline8Bit])
def test_colour_becomes_grey_like_that_of_any_picture(make_dicom: MakeDicom, syntax: Any) -> None:
    colours = np.dstack([SMOOTH, SMOOTH[::-1], SMOOTH // 2])
    elements: dict[str, Any] = {"syntax": syntax} if syntax else {}
    if syntax == JPEGBaseline8Bit:
        elements["PhotometricInterpretation"] = "YBR_FULL_422"
    expected = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    apart = 12 if syntax == JPEGBaseline8Bit else 0
    assert np.abs(pixels(make_dicom(colours, **elements)) - expected).max() <= apart


def test_colour_planes_and_ybr_are_understood(make_dicom: MakeDicom) -> None:
    colours = np.dstack([SMOOTH, SMOOTH[::-1], SMOOTH // 2])
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    planes = np.ascontiguousarray(colours.transpose(2, 0, 1)).reshape(colours.shape)
    np.testing.assert_array_equal(pixels(make_dicom(planes, PlanarConfiguration=1)), expected)
    packed = make_dicom(colours, syntax=RLELossless)
    head = b"\x28\x00\x06\x00US\x02\x00"
    at = packed.index(head) + len(head)
    for planar in (b"\0", b"\1"):  # RLE always holds planes
        other = packed[:at] + planar + packed[at + 1 :]
        np.testing.assert_array_equal(pixels(other), expected)
    ybr = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    shown = pixels(make_dicom(ybr, PhotometricInterpretation="YBR_FULL")).astype(int)
    assert np.abs(shown - expected).max() <= 2


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_implicit.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "examples_overlay.dcm",
        "image_dfl.dcm",
    ],
)
def test_files_of_other_makers_are_shown_as_pydicom_shows_them(name: str) -> None:
    encoded = Path(str(get_testdata_file(name, download=False))).read_bytes()
    data = dcmread(io.BytesIO(encoded))
    expected, shown = displayed(encoded), pixels(encoded)
    seen = data.pixel_array != data.get("PixelPaddingValue", 1 << 20)
    np.testing.assert_array_equal(shown[seen], expected[seen])


@pytest.mark.parametrize(("name", "inverted"), [("Fake_MONOHR1.dcm", True), ("test1.dcm", False)])
def test_shared_radiographs_equal_pictures_made_from_them(name: str, inverted: bool) -> None:
    root = os.environ.get("PULMO_SHARED_DATA")
    if not root:
        pytest.skip("PULMO_SHARED_DATA does not name the shared data")
    encoded = (Path(root) / "dicom" / name).read_bytes()
    stored = dcmread(io.BytesIO(encoded)).pixel_array
    png = io.BytesIO()
    Image.fromarray(255 - stored if inverted else stored).save(png, "PNG")
    picture = preprocess.decode(png.getvalue(), 1)
    suits = CHEST.model_dump()
    assert decode(encoded, **suits).tobytes() == picture.tobytes()
    assert preprocess.pixel_digest(decode(encoded, **suits)) == preprocess.pixel_digest(picture)


UNSUITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "another modality": ({"Modality": "CT", "SOPClassUID": CTImageStorage}, "modality CT"),
    "no modality": ({"without": ("Modality",)}, r"modality \(missing"),
    "a modality that may be a name": ({"Modality": "CANARY^X"}, r"modality \(missing or unread"),
    "another body part": ({"BodyPartExamined": "KNEE"}, "body part KNEE.* CHEST, THORAX, LUNG"),
    "several frames": ({"NumberOfFrames": 2}, "exactly one frame"),
    "a document": (
        {"SOPClassUID": EncapsulatedPDFStorage, "without": ("PixelData",)},
        "no picture.*Encapsulated PDF",
    ),
    "a presentation state": (
        {"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "without": ("PixelData",)},
        "no picture.*Presentation State",
    ),
    "an unknown kind": (
        {"SOPClassUID": "1.2.3.4.567", "without": ("PixelData",)},
        r"no picture.*\(missing or unknown\)",
    ),
    "something else than JPEG lossless": (
        {"syntax": JPEGLosslessSV1, "BitsAllocated": 8, "BitsStored": 8, "frame": JPEG},
        "JPEG Lossless.*of a kind that is not read; convert",
    ),
    "high-throughput JPEG 2000": ({"syntax": HTJ2KLossless, "frame": b"x"}, "High-Through"),
    "8 of 12 bits": (
        {"syntax": JPEGExtended12Bit, "BitsStored": 12, "frame": JPEG},
        r"JPEG Extended.*of a kind that is not read",
    ),
    "big endian": ({"syntax": ExplicitVRBigEndian}, "Big Endian.*convert"),
    "no rows": ({"without": ("Rows",)}, "no Rows"),
    "a side of zero": ({"Columns": 0}, "0×12 pixels"),
    "a side too long": ({"Rows": 20000}, "10×20000 pixels.*at most"),
    "too many pixels": ({"Rows": 9000, "Columns": 9000}, "9000×9000 pixels.*at most"),
    "more pixels than bytes": ({"Rows": 100}, "240 bytes of pixels .* needs 2,000"),
    "more bytes than pixels": ({"Rows": 5}, "240 bytes of pixels .* needs 100"),
    "32 bits": ({"BitsAllocated": 32}, "neither grey"),
    "a palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "neither grey"),
    "two samples": ({"SamplesPerPixel": 2}, "neither grey"),
    "too many bits stored": ({"BitsStored": 17}, "BitsStored"),
    "an odd high bit": ({"BitsStored": 12, "HighBit": 15}, "HighBit"),
    "a window without width": ({"WindowCenter": 1, "WindowWidth": 0}, "window .* no width"),
    "a linear window too narrow": (
        {"WindowCenter": 1, "WindowWidth": "0.5"},
        "window .* no width",
    ),
    "an unknown window": (
        {"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
        "VOILUTFunction",
    ),
    "a rescale without end": (
        {"RescaleSlope": "1e308", "RescaleIntercept": "1e308"},
        "out of all proportion",
    ),
    "a table without entries": ({"VOILUTSequence": [table([1, 2], 0, 20)]}, "lookup table"),
    "a sequence without table": ({"VOILUTSequence": [Dataset()]}, "no lookup table"),
}


@pytest.mark.parametrize("case", UNSUITABLE)
def test_the_unsuitable_is_refused_with_its_reason(make_dicom: MakeDicom, case: str) -> None:
    elements, reason = UNSUITABLE[case]
    stored = GREY8.astype(np.uint16)
    with pytest.raises(DataError, match=reason):
        decode(make_dicom(stored, **elements), **CHEST.model_dump())


def test_what_suits_is_a_property_of_the_task(make_dicom: MakeDicom) -> None:
    knee = make_dicom(GREY8, BodyPartExamined="KNEE", Modality="OT")
    np.testing.assert_array_equal(pixels(knee), GREY8)
    with pytest.raises(DataError, match="modality OT"):
        decode(knee, modalities=("DX",))
    nameless = make_dicom(GREY8, without=("BodyPartExamined",))
    np.testing.assert_array_equal(pixels(nameless, **CHEST.model_dump()), GREY8)
    thorax = make_dicom(GREY8, BodyPartExamined="Thorax")
    np.testing.assert_array_equal(pixels(thorax, **CHEST.model_dump()), GREY8)


def test_the_specification_is_closed() -> None:
    assert DicomSpec().modalities == ()
    with pytest.raises(ValidationError):
        DicomSpec.model_validate({"patients": ["X"]})


def test_dicom_is_known_by_its_mark(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(GREY8)
    assert is_dicom(encoded)
    assert is_dicom(encoded[132:])
    np.testing.assert_array_equal(pixels(encoded[132:]), GREY8)
    for other in (b"", b"DICM", b"\x89PNG\r\n\x1a\n" + bytes(200), encoded[4:]):
        assert not is_dicom(other)
        with pytest.raises(DataError, match="not a DICOM"):
            decode(other)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(DataError, match="at most"):
        decode(bytes(preprocess.MAX_BYTES + 1))


def test_no_name_gets_out(
    make_dicom: MakeDicom, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every refusal, and a frame that makes pydicom itself complain."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pydicom").setLevel(logging.DEBUG)
    good = make_dicom(SMOOTH, syntax=JPEGBaseline8Bit)
    damaged = bytearray(good)
    damaged[-40:-4] = bytes(36)
    files = [make_dicom(GREY8.astype(np.uint16), **elements) for elements, _ in UNSUITABLE.values()]
    files += [good, bytes(damaged), good[:-300], good[:400]]
    files += [good.replace(b"DX", b"\xff^"), make_dicom(GREY8, syntax=RLELossless, frame=b"CANARY")]
    assert all(b"CANARY" in file for file in files[: len(UNSUITABLE)])
    caplog.clear()
    heard = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for file in files:
            try:
                decode(file, **CHEST.model_dump())
            except DataError as error:
                heard += [str(error), repr(error), traceback.format_exc()]
                heard += [repr(error.__cause__)]
    assert len(heard) >= 4 * len(UNSUITABLE)
    heard += [str(warning.message) for warning in raised] + [caplog.text, *capfd.readouterr()]
    assert not [text for text in heard if "CANARY" in text or "QUAGGA" in text]


def test_the_picture_carries_nothing_but_pixels(make_dicom: MakeDicom) -> None:
    image = decode(make_dicom(GREY8))
    assert image.info == {}
    png = io.BytesIO()
    image.save(png, "PNG")
    assert b"CANARY" not in png.getvalue()


def test_memory_is_bounded_by_the_pixels(make_dicom: MakeDicom) -> None:
    encoded = make_dicom(np.zeros((1500, 1500), np.uint16), BitsStored=12)
    tracemalloc.start()
    decode(encoded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20
