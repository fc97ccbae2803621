"""The pixels of a DICOM data set: their size is checked, then they are unpacked."""

import logging
import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pulmo.core.dicom_elements import NATIVE, RLE, DataSet, read_frame, uid_name
from pulmo.core.loading import LOADING
from pulmo.core.preprocess import MAX_PIXELS, MAX_SIDE
from pulmo.errors import DataError

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_EXTENDED = "1.2.840.10008.1.2.4.51"
_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
_JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
_FRAME_STARTS = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC} | {0xFFF7}
_SEQUENTIAL, _PREDICTED = 0xFFC1, 0xFFC3
_SCAN_START, _END = 0xFFDA, b"\xff\xd9"
_MAX_SEGMENTS = 1000  # before the first scan of a JPEG; pictures have about ten
Codes = NDArray[Any]  # stored values, 8 or 16 bits, signed or not: [rows, columns] or [.., .., 3]


class Layout(NamedTuple):
    """Size and number format of the pixels."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str


def read_layout(data: DataSet) -> Layout:
    """Size and format, checked before any pixel is touched. Raises DataError."""
    layout = Layout(
        data.whole("Rows"),
        data.whole("Columns"),
        data.whole("SamplesPerPixel"),
        data.whole("BitsAllocated"),
        data.whole("BitsStored"),
        data.whole("PixelRepresentation") == 1,
        data.whole("PlanarConfiguration", 0) == 1,
        data.text("PhotometricInterpretation"),
    )
    rows, columns = layout.rows, layout.columns
    if not (rows and columns) or max(rows, columns) > MAX_SIDE or rows * columns > MAX_PIXELS:
        raise DataError(
            f"the DICOM file claims {columns}×{rows} pixels; at most {MAX_PIXELS:,} pixels and "
            f"{MAX_SIDE:,} a side are read"
        )
    grey = layout.samples == 1 and layout.photometric in _GREY and layout.allocated in (8, 16)
    colour = layout.samples == 3 and layout.photometric in _COLOUR and layout.stored == 8
    if not grey and not (colour and layout.allocated == 8 and not layout.signed):
        raise DataError(
            "the DICOM file is neither grey of 8 or 16 bits nor RGB or YBR of 8 bits; convert it"
        )
    if not 1 <= layout.stored <= layout.allocated:
        raise DataError("BitsStored of the DICOM file does not fit BitsAllocated")
    if data.whole("HighBit", layout.stored - 1) != layout.stored - 1:
        raise DataError("HighBit of the DICOM file does not fit BitsStored")
    return layout


def read_codes(data: DataSet, layout: Layout, syntax: str) -> Codes:
    """The stored values of the one frame. Raises DataError, struct.error where it is cut short."""
    value = data.values["PixelData"]
    if syntax in NATIVE:
        return _native(value, layout)
    frame = read_frame(value)
    if syntax == RLE:
        return _native(_unpack(frame, layout), layout._replace(planar=True))
    return _decompress(frame, layout, syntax)


def _native(value: bytes, layout: Layout) -> Codes:
    """Uncompressed pixels with their unused bits made zeros or signs (PS3.5 chapter 8)."""
    count = layout.rows * layout.columns * layout.samples
    length = count * layout.allocated // 8
    if len(value) not in (length, length + length % 2):
        raise DataError(
            f"the DICOM file has {len(value):,} bytes of pixels where its size needs {length:,}"
        )
    sign = "i" if layout.signed else "u"
    codes = np.frombuffer(value, f"<{sign}{layout.allocated // 8}", count)
    if unused := layout.allocated - layout.stored:
        codes = np.right_shift(np.left_shift(codes, unused), unused)
    if layout.samples == 1:
        return codes.reshape(layout.rows, layout.columns)
    if layout.planar:
        return np.ascontiguousarray(
            codes.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
        )
    return codes.reshape(layout.rows, layout.columns, 3)


def _unpack(frame: bytes, layout: Layout) -> bytes:
    """RLE planes (PS3.5 annex G) by Pillow's PackBits, which writes no more than they take."""
    size, width = layout.rows * layout.columns, layout.allocated // 8
    segments, *starts = struct.unpack_from("<16I", frame)
    if segments != layout.samples * width:
        raise DataError("the RLE data of the DICOM file have a wrong number of segments")
    ends = [*starts[1:segments], len(frame)]
    planes = np.empty((layout.samples, width, size), np.uint8)
    for index, (start, end) in enumerate(zip(starts[:segments], ends, strict=True)):
        try:
            plane = Image.frombytes("L", (size, 1), frame[start:end], "packbits", "L")
        except ValueError:
            raise DataError("the RLE data of the DICOM file are damaged") from None
        sample, byte = divmod(index, width)
        planes[sample, width - 1 - byte] = np.asarray(plane)[0]  # most significant byte first
    return planes.transpose(0, 2, 1).tobytes()


def _decompress(frame: bytes, layout: Layout, syntax: str) -> Codes:
    """One JPEG, JPEG-LS or JPEG 2000 frame, once its own header says the size of the file."""
    head = _read_head(frame)
    if head.size != (layout.rows, layout.columns, layout.samples):
        raise DataError("the compressed picture has another size than the DICOM file says")
    if syntax in _LOSSLESS or (syntax == _EXTENDED and layout.allocated == 16):
        decoded = _by_libjpeg(frame, head, layout, syntax)
    else:
        decoded = _by_pydicom(frame, layout, syntax)
    if decoded is None:
        raise DataError(
            f"the {uid_name(syntax)} data of the DICOM file are damaged or of a kind that is not "
            "read; convert the file to Explicit VR Little Endian"
        )
    return decoded


def _by_libjpeg(frame: bytes, head: "_Head", layout: Layout, syntax: str) -> Codes | None:
    """Lossless and 12-bit JPEG of one sample, None where it is damaged or something else.

    libjpeg-turbo fills what is missing with grey, so the end must stand where it belongs.
    """
    with LOADING:
        from imagecodecs import jpeg8_decode

    kind, least = (_PREDICTED, 2) if syntax in _LOSSLESS else (_SEQUENTIAL, layout.stored)
    if head.kind != kind or layout.samples != 1 or not least <= head.bits <= layout.allocated:
        return None
    end = frame.find(_END, head.scan)
    if end < 0 or frame[end + 2 :].strip(b"\0\xff"):  # some pad
        return None
    codes = np.empty((layout.rows, layout.columns), np.uint8 if head.bits <= 8 else np.uint16)
    try:
        jpeg8_decode(frame[: end + 2], out=codes)
    except Exception:  # noqa: BLE001  as below
        return None
    return _native(codes.astype(f"<u{layout.allocated // 8}").tobytes(), layout)


def _by_pydicom(frame: bytes, layout: Layout, syntax: str) -> Codes | None:
    """Other frames by pydicom's plug-ins, which see nothing but the pixels; None if damaged."""
    with LOADING:
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

    if syntax in _JPEG_LS:
        frame += _END  # without it CharLS searches damaged data for seconds
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": int(layout.planar),
        "number_of_frames": 1,
    }
    # pydicom logs and warns about what is raised here, in words that are not ours.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    try:
        return get_decoder(syntax).as_array(encapsulate([frame], has_bot=False), **options)[0]
    except Exception:  # noqa: BLE001  plug-ins raise whatever a damaged file makes them stumble over
        return None


class _Head(NamedTuple):
    """What a compressed frame says of itself."""

    size: tuple[int, int, int]  # height, width, components
    kind: int = 0  # marker of the frame, which names the process
    bits: int = 0  # of a sample
    scan: int = 0  # where its first scan begins


def _read_head(frame: bytes) -> _Head:
    """The one header of a JPEG 2000, JPEG or JPEG-LS frame. Raises DataError, struct.error."""
    if frame[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        return _Head((bottom - top, right - left, struct.unpack_from(">H", frame, 40)[0]))
    at, heads = 2, list[_Head]()
    for _ in range(_MAX_SEGMENTS):
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == _SCAN_START and len(heads) == 1:
            return heads[0]._replace(scan=at)
        if marker in _FRAME_STARTS:
            bits, *size = struct.unpack_from(">BHHB", frame, at + 4)
            heads.append(_Head((size[0], size[1], size[2]), marker, bits))
        at += 2 + length
    raise DataError("the compressed picture of the DICOM file has no clear header")
