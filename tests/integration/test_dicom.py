"""DICOM files are pictures like any other, and the people in them stay unknown."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from pulmo.core.bundle import Bundle
from pulmo.core.preprocess import InputSpec, decode, read

CANARY = "CANARY^QUAGGA"
SPEC = InputSpec(height=64, width=48, channels=1, resize="crop")

Cli = Callable[..., tuple[int, str, str]]


def radiograph(path: Path, seed: int, modality: str = "DX") -> Path:
    """A DICOM file of a smooth picture, with a name wherever a person could be named."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC))
    data = Dataset()
    for name in ("PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName"):
        setattr(data, name, CANARY)
    data.PatientComments = data.StudyDescription = data.ImageComments = CANARY
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid()
    data.Modality, data.BodyPartExamined = modality, "CHEST"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, data, enforce_file_format=True)
    return path


def test_a_folder_of_dicom_files_becomes_a_data_set_that_names_nobody(
    cli: Cli, tmp_path: Path
) -> None:
    for i in range(120):
        suffix = ("", ".dcm", ".1234")[i % 3]
        radiograph(tmp_path / "xrays" / ("ill", "well")[i % 2] / f"{i}{suffix}", i)
    radiograph(tmp_path / "xrays" / "ill" / "mammogram.dcm", 999, "MG")
    (tmp_path / "xrays" / "ill" / "damaged.dcm").write_bytes(
        radiograph(tmp_path / "other", 1000).read_bytes()[:-200]
    )
    options = ("data=folder", f"data.root={tmp_path / 'xrays'}", "data.dicom.modalities=[DX]")
    code, out, err = cli("validate", *options)
    assert code == 3
    report = json.loads((tmp_path / "data" / "folder" / "report.json").read_text())
    (finding,) = (one for one in report["findings"] if one["check"] == "unreadable")
    reasons = dict(line.split(": ", 1) for line in finding["where"])
    assert "modality MG does not suit" in reasons["ill/mammogram.dcm"]
    assert set(reasons) == {"ill/mammogram.dcm", "ill/damaged.dcm"}
    made = cli("data", *options, "doctor.allow_errors=true")
    assert made[0] == 0
    assert report["counts"]["train"]["ill"] > 30
    told = [out, err, *made[1:]]
    written = [p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert len(written) > 4
    for canary in (b"CANARY", b"QUAGGA"):
        assert not any(canary in one for one in written)
        assert not any(canary.decode() in one for one in told)


def test_an_answer_names_nobody_and_is_that_of_the_picture(
    cli: Cli, toy_bundle: Bundle, tmp_path: Path
) -> None:
    path = radiograph(tmp_path / "in" / "IM0001", 5)
    decode(path.read_bytes(), 1).save(tmp_path / "in" / "same.png")
    code, out, err = cli(
        "predict", tmp_path / "in", "--model", toy_bundle.path, "--overlay", tmp_path / "heat",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    one, other = (json.loads(line) for line in out.splitlines())
    assert (one["path"], other["path"]) == (str(path), str(tmp_path / "in" / "same.png"))
    for name in ("label", "probability", "decision", "reasons"):
        assert one[name] == other[name]
    heat = [file.read_bytes() for file in (tmp_path / "heat").iterdir()]
    assert len(heat) == 2
    assert not any(b"CANARY" in told for told in [*heat, out.encode(), err.encode()])


@pytest.mark.skipif("PULMO_SHARED_DATA" not in os.environ, reason="PULMO_SHARED_DATA is not set")
@pytest.mark.parametrize("name", ["Fake_MONOHR1.dcm", "test1.dcm"])
def test_real_dicom_files_and_pictures_made_from_them_get_the_same_answer(
    cli: Cli, toy_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    encoded = Path(os.environ["PULMO_SHARED_DATA"], "dicom", name).read_bytes()
    image = decode(encoded, 1)
    image.save(tmp_path / "same.png")
    image.convert("RGB").save(tmp_path / "colour.png")
    (tmp_path / "file").write_bytes(encoded)
    again = [(tmp_path / one).read_bytes() for one in ("same.png", "colour.png", "file")]
    digests = {hashlib.sha256(read(one, SPEC).tobytes()).hexdigest() for one in again}
    assert len(digests) == 1
    paths = [tmp_path / one for one in ("file", "same.png", "colour.png")]
    code, out, err = cli("predict", *paths, "--model", toy_bundle.path, "--json")
    assert code == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert len({(one["label"], one["probability"], one["decision"]) for one in answers}) == 1
    tags = dcmread(tmp_path / "file", force=True)
    person = str(tags.get("PatientName") or "nobody at all")
    assert person not in out + err
