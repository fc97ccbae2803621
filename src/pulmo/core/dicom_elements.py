"""Read the few elements of a DICOM file that its picture needs, in bounded time and memory.

Only the elements named in `_TAGS` are ever looked at. Names, identifiers, dates and comments are
stepped over unread, so that no message, log or traceback can carry them.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pulmo.core.loading import LOADING
from pulmo.core.preprocess import MAX_BYTES, is_dicom
from pulmo.errors import DataError

MAX_ELEMENTS = 100_000  # of one data set and its compressed fragments; a picture has hundreds
CUT_SHORT = "the DICOM file is cut short or its lengths are wrong"

Reals = NDArray[np.float64]

_PIXEL_DATA = 0x7FE00010
_TAGS = {
    0x00020010: "TransferSyntaxUID",
    0x00080016: "SOPClassUID",
    0x00080060: "Modality",
    0x00180015: "BodyPartExamined",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280006: "PlanarConfiguration",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00280120: "PixelPaddingValue",
    0x00280121: "PixelPaddingRangeLimit",
    0x00281050: "WindowCenter",
    0x00281051: "WindowWidth",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
    0x00281056: "VOILUTFunction",
    0x00283000: "ModalityLUTSequence",
    0x00283002: "LUTDescriptor",
    0x00283006: "LUTData",
    0x00283010: "VOILUTSequence",
    _PIXEL_DATA: "PixelData",
}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

_IMPLICIT = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = frozenset({_IMPLICIT, "1.2.840.10008.1.2.1", _DEFLATED})
RLE = "1.2.840.10008.1.2.5"
# JPEG Baseline, Extended and twice Lossless, JPEG-LS and JPEG 2000, both exact and lossy.
CODECS = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91))


@dataclass(frozen=True)
class LookupTable:
    """Stored values from `first` on become `entries`, each of `bits` bits."""

    first: int
    entries: Reals
    bits: int

    def look_up(self, values: Reals) -> Reals:
        """The entry of every value; what lies outside takes the first or the last."""
        return self.entries[np.clip(values - self.first, 0, len(self.entries) - 1).astype(np.intp)]


@dataclass(frozen=True)
class DataSet:
    """The wanted elements that a file holds, by keyword, as raw bytes."""

    values: Mapping[str, bytes]
    explicit: bool  # whether every element says its type

    def text(self, name: str) -> str:
        """The first value, in capitals; empty where there is none."""
        first = self.values.get(name, b"").split(b"\\")[0]
        return first.decode("ascii", "replace").strip(" \0").upper()

    def whole(self, name: str, default: int | None = None, *, signed: bool = False) -> int:
        """A 16-bit number. Raises DataError where it is missing and has no default."""
        raw = self.values.get(name, b"")
        if not raw and default is not None:
            return default
        if len(raw) != 2:
            raise DataError(f"the DICOM file has no {name}, or one of a wrong length")
        return int(struct.unpack("<h" if signed else "<H", raw)[0])

    def real(self, name: str) -> float | None:
        """A number written as text, None where there is none. Raises DataError."""
        try:
            number = float(text) if (text := self.text(name)) else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise DataError(f"{name} of the DICOM file is not a finite number")
        return number

    def table(self, name: str, *, signed: bool) -> LookupTable | None:
        """The first lookup table of a sequence (PS3.3 C.11.1.1). Raises DataError."""
        if not (sequence := self.values.get(name)):
            return None
        tag, length, at = _header(sequence, 0, self.explicit)
        item = sequence[at:] if length == _UNDEFINED else sequence[at : at + length]
        found, _ = _read(item, 0, self.explicit, _PIXEL_DATA)
        descriptor, entries = found.get("LUTDescriptor", b""), found.get("LUTData", b"")
        if tag != _ITEM or len(descriptor) != 6:
            raise DataError(f"{name} of the DICOM file holds no lookup table")
        count, first, bits = struct.unpack("<HhH" if signed else "<HHH", descriptor)
        count = count or 65536
        width = 1 if bits <= 8 and len(entries) < 2 * count else 2
        if not 1 <= bits <= 16 or len(entries) < count * width:
            raise DataError(f"{name} of the DICOM file has a lookup table of a wrong length")
        numbers = np.frombuffer(entries, f"<u{width}", count)
        return LookupTable(first, numbers.astype(np.float64), bits)


def read_elements(encoded: bytes) -> tuple[str, DataSet]:
    """Transfer syntax and wanted elements of a file (PS3.10 chapter 7, PS3.5 annex A).

    Raises DataError, and struct.error where the file ends in the head of an element.
    """
    if not is_dicom(encoded):
        raise DataError("not a DICOM file: its mark DICM is missing")
    start = 132 if encoded[128:132] == b"DICM" else 0
    meta, at = _read(encoded, start, True, 0x0002FFFF)
    syntax = DataSet(meta, True).text("TransferSyntaxUID")
    if syntax not in NATIVE | CODECS | {RLE}:
        raise DataError(
            f"DICOM transfer syntax {uid_name(syntax)} is not read; convert the file to "
            "Explicit VR Little Endian"
        )
    if syntax == _DEFLATED:
        encoded, at = _inflate(encoded[at:]), 0
    explicit = syntax != _IMPLICIT
    return syntax, DataSet(_read(encoded, at, explicit, _PIXEL_DATA)[0], explicit)


def read_frame(encapsulated: bytes) -> bytes:
    """The fragments of one compressed frame, joined (PS3.5 annex A.4). Raises DataError."""
    at, fragments = 0, []
    while at < len(encapsulated):
        tag, length, start = _header(encapsulated, at, False)
        at = start + length
        if tag != _ITEM or at > len(encapsulated):
            raise DataError(CUT_SHORT)
        fragments.append(encapsulated[start:at])
    return b"".join(fragments[1:])  # the first holds offsets of frames


def uid_name(uid: str) -> str:
    """What the DICOM standard calls a UID; one that it does not know is not repeated."""
    with LOADING:
        from pydicom.config import IGNORE
        from pydicom.uid import UID

    known = UID(uid, validation_mode=IGNORE)
    return known.name if known.type else "(missing or unknown)"


def _inflate(deflated: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(deflated, MAX_BYTES)
    except zlib.error:
        raise DataError("the deflated data of the DICOM file are damaged") from None
    if stream.unconsumed_tail:
        raise DataError(f"the DICOM file inflates to more than {MAX_BYTES:,} bytes")
    return inflated


def _read(data: bytes, at: int, explicit: bool, last: int) -> tuple[dict[str, bytes], int]:
    """The wanted elements of the data set at `at` up to tag `last`, and where it ends.

    Sequences of undefined length are stepped over by counting what is open: neither depth nor
    number of elements of a hostile file costs more than `MAX_ELEMENTS` steps.
    """
    found: dict[str, bytes] = {}
    name, start, depth = None, at, 0
    for _ in range(MAX_ELEMENTS):
        here = at
        if depth == 0 and (at == len(data) or "PixelData" in found):
            return found, here
        tag, length, at = _header(data, here, explicit)
        if depth == 0:
            if tag > last:
                return found, here
            name, start = _TAGS.get(tag), at
        end = here  # of a value that a delimiter closes
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        else:
            end = at = at + length
        if at > len(data):
            raise DataError(CUT_SHORT)
        if depth == 0 and name is not None:
            found.setdefault(name, data[start:end])
    raise DataError(f"the DICOM file has more than {MAX_ELEMENTS:,} elements")


def _header(data: bytes, at: int, explicit: bool) -> tuple[int, int, int]:
    """Tag, length and start of the value of one element (PS3.5 chapter 7.1)."""
    group, element = struct.unpack_from("<HH", data, at)
    tag, vr = group << 16 | element, data[at + 4 : at + 6]
    if explicit and group != 0xFFFE:
        if vr in _LONG_VRS:
            return tag, struct.unpack_from("<I", data, at + 8)[0], at + 12
        if vr in _SHORT_VRS:
            return tag, struct.unpack_from("<H", data, at + 6)[0], at + 8
    # Items have no VR, nor has what some writers put into sequences.
    return tag, struct.unpack_from("<I", data, at + 4)[0], at + 8
