"""DICOM files for the tests, written by pydicom."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

CANARY = "CANARY^QUAGGA"

MakeDicom = Callable[..., bytes]
PACKED = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEG2000Lossless,
    JPEG2000,
)


@pytest.fixture(scope="session")
def make_dicom() -> MakeDicom:
    """`make_dicom(pixels, syntax=…, frame=…, without=(…), **elements)` → the bytes of a file.

    `pixels`: 8 or 16 bits, signed or not, [rows, columns] or [rows, columns, 3]. `frame` replaces
    what the compressed syntax would hold. A canary name stands wherever a person could be named.
    """
    return _make


def _make(
    pixels: NDArray[Any],
    *,
    syntax: UID = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    without: tuple[str, ...] = (),
    **elements: Any,
) -> bytes:
    data = Dataset()
    _name_the_canary(data)
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid(entropy_srcs=[CANARY])
    data.Modality, data.BodyPartExamined, data.NumberOfFrames = "DX", "CHEST", 1
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(data, name, value)
    data.HighBit = elements.get("HighBit", data.BitsStored - 1)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    raw = pixels.tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    if syntax in (RLELossless, JPEGLSLossless) and frame is None:
        data.compress(syntax, generate_instance_uid=False)
    elif syntax in PACKED or frame is not None:
        encoded = _encode(pixels, syntax, data.BitsStored) if frame is None else frame
        data.PixelData = encapsulate([encoded])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    for name in without:
        delattr(data, name)
    buffer = io.BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _name_the_canary(data: Dataset) -> None:
    for name in (
        "PatientName",
        "PatientID",
        "OtherPatientNames",
        "PatientComments",
        "PatientAddress",
        "ReferringPhysicianName",
        "OperatorsName",
        "InstitutionName",
        "AccessionNumber",
        "StudyDescription",
        "SeriesDescription",
        "ImageComments",
        "ProtocolName",
    ):
        setattr(data, name, CANARY)
    inner = Dataset()
    inner.PatientName = CANARY
    data.RequestAttributesSequence = [inner]
    block = data.private_block(0x0029, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    block.add_new(2, "SQ", [inner])


def _encode(pixels: NDArray[Any], syntax: UID, bits: int) -> bytes:
    if syntax == JPEGExtended12Bit:
        return bytes(jpeg8_encode(pixels, level=100, bitspersample=12))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        unsigned = pixels.view(f"u{pixels.dtype.itemsize}") & ((1 << bits) - 1)
        predictor = 6 if syntax == JPEGLossless else 1
        return bytes(jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits))
    buffer = io.BytesIO()
    if syntax == JPEGBaseline8Bit:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    else:
        Image.fromarray(np.ascontiguousarray(pixels)).save(
            buffer, "JPEG2000", no_jp2=True, irreversible=syntax == JPEG2000
        )
    return buffer.getvalue()
