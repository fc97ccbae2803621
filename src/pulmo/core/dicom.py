"""DICOM bytes to the grey picture that a viewer shows; what does not suit the task is refused.

Overlays, shutters, pixel aspect ratio and view position are ignored.
"""

import re
import struct
from collections.abc import Collection
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pulmo.core.dicom_elements import (
    CODECS,
    CUT_SHORT,
    DataSet,
    Reals,
    read_elements,
    uid_name,
)
from pulmo.core.dicom_pixels import Codes, Layout, read_codes, read_layout
from pulmo.core.dicom_spec import DicomSpec
from pulmo.core.preprocess import MAX_BYTES, is_dicom
from pulmo.errors import DataError

__all__ = ["DicomSpec", "decode", "is_dicom"]


def decode(
    encoded: bytes,
    *,
    modalities: Collection[str] | None = None,
    body_parts: Collection[str] | None = None,
) -> Image.Image:
    """The one frame of a DICOM file as a viewer shows it, mode L.

    Modality LUT or rescale, then VOI LUT or else the first window (PS3.3 C.11.1 and C.11.2), then
    MONOCHROME1 is inverted, which is what PresentationLUTShape INVERSE repeats. Without a VOI, up
    to 8 stored bits are shown by their full range, wider pictures from their least to their
    greatest value. Padding is black. Colour (screen captures) becomes grey by its luma.

    `modalities` and `body_parts` are those of `DicomSpec`. Raises DataError for what is damaged,
    too large, holds several frames or none, or does not suit; it never repeats what identifies.
    """
    if len(encoded) > MAX_BYTES:
        raise DataError(f"the file has {len(encoded):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        syntax, data = read_elements(encoded)
        _check_suits(data, modalities or (), body_parts or ())
        _check_readable(data)
        layout = read_layout(data)
        codes = read_codes(data, layout, syntax)
        if layout.samples == 1:
            return Image.fromarray(_display(data, layout, codes))
    except struct.error:
        raise DataError(CUT_SHORT) from None
    # The codecs hand back RGB, whatever the file holds.
    mode = "YCbCr" if layout.photometric == "YBR_FULL" and syntax not in CODECS else "RGB"
    size = (layout.columns, layout.rows)
    return Image.frombytes(mode, size, codes.tobytes()).convert("RGB").convert("L")


def _check_suits(data: DataSet, modalities: Collection[str], body_parts: Collection[str]) -> None:
    modality, body_part = data.text("Modality"), data.text("BodyPartExamined")
    if modalities and modality not in modalities:
        _refuse("modality", modality, modalities)
    if body_parts and body_part and body_part not in body_parts:
        _refuse("body part", body_part, body_parts)


def _refuse(kind: str, word: str, wanted: Collection[str]) -> NoReturn:
    shown = word if re.fullmatch(r"[A-Z0-9_ ]{1,16}", word) else "(missing or unreadable)"
    raise DataError(f"a DICOM of {kind} {shown} does not suit; send one of {', '.join(wanted)}")


def _check_readable(data: DataSet) -> None:
    if "PixelData" not in data.values:
        kind = uid_name(data.text("SOPClassUID"))
        raise DataError(f"the DICOM file holds no picture that can be read; its kind is {kind}")
    if (data.text("NumberOfFrames") or "1") != "1":
        raise DataError("the DICOM file does not hold exactly one frame; send a single picture")


def _display(data: DataSet, layout: Layout, codes: Codes) -> NDArray[np.uint8]:
    """Grey levels, computed once for every value that a pixel can have, not for every pixel."""
    unsigned, sign = f"u{layout.allocated // 8}", "i" if layout.signed else "u"
    index = codes.astype(unsigned)
    ramp = np.arange(1 << layout.allocated).astype(unsigned)
    values = ramp.view(f"{sign}{layout.allocated // 8}").astype(np.float64)
    padding = _padding(data, layout, values)
    if layout.stored > 8:
        counted = np.zeros(len(ramp), bool)
        counted[index] = True
        counted &= ~padding
    else:
        least = -(1 << layout.stored - 1) if layout.signed else 0
        counted = (values >= least) & (values < least + (1 << layout.stored))
    with np.errstate(all="ignore"):
        shown = _shown(data, layout, _rescaled(data, layout, values), counted)
    grey = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    if layout.photometric == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0
    picture: NDArray[np.uint8] = grey[index]
    return picture


def _padding(data: DataSet, layout: Layout, values: Reals) -> NDArray[np.bool_]:
    """Which stored values fill what the detector did not see (PS3.3 C.7.5.1.1.2)."""
    if not data.values.get("PixelPaddingValue"):
        return np.zeros(len(values), bool)
    one = data.whole("PixelPaddingValue", signed=layout.signed)
    other = data.whole("PixelPaddingRangeLimit", one, signed=layout.signed)
    return (values >= min(one, other)) & (values <= max(one, other))


def _rescaled(data: DataSet, layout: Layout, values: Reals) -> Reals:
    """Stored values after the modality transformation (PS3.3 C.11.1)."""
    if table := data.table("ModalityLUTSequence", signed=layout.signed):
        return table.look_up(values)
    slope, intercept = data.real("RescaleSlope"), data.real("RescaleIntercept")
    return values if slope is None or intercept is None else _finite(values * slope + intercept)


def _shown(data: DataSet, layout: Layout, values: Reals, counted: NDArray[np.bool_]) -> Reals:
    """Brightness of rescaled values, 0 to 1 where displayed (PS3.3 C.11.2)."""
    if table := data.table("VOILUTSequence", signed=layout.signed):
        return table.look_up(values) / ((1 << table.bits) - 1)
    centre, width = data.real("WindowCenter"), data.real("WindowWidth")
    if centre is None or width is None:
        if not counted.any():
            raise DataError("the DICOM file holds nothing but padding")
        low, high = values[counted].min(), values[counted].max()
        return _finite((values - low) / ((high - low) or 1.0))
    function = data.text("VOILUTFunction") or "LINEAR"
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise DataError("the window of the DICOM file has no width")
    if function == "SIGMOID":
        return _finite(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise DataError("VOILUTFunction of the DICOM file is none that the standard knows")
    low = centre - width / 2
    return _finite((values - low) / width) if width else (values > low).astype(np.float64)


def _finite(values: Reals) -> Reals:
    if not np.isfinite(values).all():
        raise DataError("rescale or window of the DICOM file are out of all proportion")
    return values
