"""DICOM files are pictures like any other to a trained model; what does not suit is refused.

A model is trained once on real X-rays (some minutes). Nothing that a file tells of a person is
found anywhere afterwards.
"""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from imagecodecs import jpeg8_encode
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGLosslessSV1,
    generate_uid,
)

ROOT = Path(__file__).parents[2]
FILES = ("Fake_MONOHR1.dcm", "test1.dcm")
CANARY = "CANARY^QUAGGA"
LISTENING = "listening on "
MUTATIONS = 4000
DICOM = {"Content-Type": "application/dicom"}

logger = logging.getLogger(__name__)  # the figures: --log-cli-level=INFO

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass
class Server:
    client: httpx.Client
    said: list[str]


@contextmanager
def serving(folder: Path, target: Path) -> Iterator[Server]:
    """A server in `folder` with an address of its own; all that it says is kept."""
    command = [sys.executable, str(ROOT / "main.py"), "serve", "--model", str(target)]
    process = subprocess.Popen(
        [*command, "--port", "0"], stderr=subprocess.PIPE, text=True, cwd=folder
    )
    with process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if LISTENING in line)
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            url = line.partition(LISTENING)[2].strip()
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Server(client, said)
        finally:
            process.terminate()
            process.wait(60)
            reader.join(60)


def named(data: Dataset) -> Dataset:
    """The same with a canary wherever a person or a place could be named."""
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
        "ImageComments",
        "ProtocolName",
    ):
        setattr(data, name, CANARY)
    inner = Dataset()
    inner.PatientName = CANARY
    data.RequestAttributesSequence = [inner]
    data.private_block(0x0029, CANARY, create=True).add_new(1, "LO", CANARY)
    return data


def radiograph(pixels: np.ndarray[Any, Any], **elements: Any) -> Dataset:
    """An uncompressed radiograph of 8 or 16 bits with the canary in it."""
    data = named(Dataset())
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid()
    data.Modality, data.BodyPartExamined = "DX", "CHEST"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.PixelRepresentation = 0
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in elements.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    return data


def packed(data: Dataset, frame: bytes, syntax: Any = JPEGLosslessSV1) -> Dataset:
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return data


def written(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def lossless(pixels: np.ndarray[Any, Any], bits: int) -> bytes:
    return bytes(jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=bits))


def answers(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(answer: dict[str, Any], other: dict[str, Any]) -> float:
    assert (answer["label"], answer["decision"]) == (other["label"], other["decision"])
    gap = abs(answer["probability"] - other["probability"])
    assert gap <= 1e-4
    return float(gap)


def test_two_real_files_and_pictures_made_from_them_get_the_same_answer(
    xray_home: Path, shared_data: Path, pulmo: Command
) -> None:
    """By `predict` and over HTTP; the pictures are made by pydicom and Pillow, not by Pulmo.

    One more file holds the same pixels with 12 bits, compressed as radiographs mostly are.
    """
    folder, lines = xray_home / "pairs", []
    folder.mkdir()
    for name in FILES:
        source = dcmread(shared_data / "dicom" / name)
        stored = source.pixel_array
        shown = 255 - stored if source.PhotometricInterpretation == "MONOCHROME1" else stored
        Image.fromarray(shown).save(folder / f"{name}.png")
        wide = (shown.astype(np.uint16) << 4) | (shown >> 4)
        window = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
        exact = packed(radiograph(wide, **window), lossless(wide, 12))
        (folder / f"{name}.exact").write_bytes(written(exact))
        shutil.copy(shared_data / "dicom" / name, folder / name)
    with serving(xray_home, xray_home / "run") as server:
        for name in FILES:
            paths = [folder / name, folder / f"{name}.png", folder / f"{name}.exact"]
            done = pulmo(xray_home, "predict", *map(str, paths), "--model", "./run", "--json")
            plain = answers(done)
            gap = max(same(plain[0], plain[1]), same(plain[0], plain[2]))
            for path in paths:
                kind = DICOM if path.suffix != ".png" else {"Content-Type": "image/png"}
                reply = server.client.post("/predict", content=path.read_bytes(), headers=kind)
                assert reply.status_code == 200, reply.text
                told = reply.json()
                over = {**told, "label": told["prediction"]}
                gap = max(gap, same(plain[0], over))
            one = plain[0]
            lines.append(f"{name}: {one['label']} {one['probability']:.6f}, largest gap {gap:.1e}")
    logger.info("\n  ".join(["", *lines]))


def unsuitable() -> dict[str, tuple[bytes, str]]:
    """Hostile and unsuitable files, each with a word of the reason that is to be told."""
    grey = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)
    wide = grey.astype(np.uint16) * 16
    frame = lossless(wide, 12)
    whole = written(radiograph(grey))
    plain = {
        "another modality": (
            radiograph(grey, Modality="CT", SOPClassUID=CTImageStorage),
            "modality CT",
        ),
        "another body part": (radiograph(grey, BodyPartExamined="KNEE"), "body part KNEE"),
        "several frames": (radiograph(grey, NumberOfFrames=2), "exactly one frame"),
        "more pixels than bytes": (radiograph(grey, Rows=100), "bytes of pixels"),
        "a size like a bomb": (radiograph(grey, Rows=60000, Columns=60000), "at most"),
        "lossless, cut": (packed(radiograph(wide, BitsStored=12), frame[:-90]), "damaged"),
        "lossless, of another size": (
            packed(radiograph(wide, BitsStored=12, Rows=61), frame),
            "another size",
        ),
        "a syntax that is not read": (
            packed(radiograph(wide, BitsStored=12), b"x", HTJ2KLossless),
            "High-Throughput",
        ),
        "big endian": (radiograph(grey), "Big Endian"),
        "a palette": (radiograph(grey, PhotometricInterpretation="PALETTE COLOR"), "neither grey"),
        "a document": (radiograph(grey, SOPClassUID=EncapsulatedPDFStorage), "no picture"),
    }
    del plain["a document"][0].PixelData
    plain["big endian"][0].file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    files = {
        name: (written(data) if name != "big endian" else big_endian(data), reason)
        for name, (data, reason) in plain.items()
    }
    pixels = whole.index(b"\xe0\x7f\x10\x00OB\0\0") + 8
    lying = whole[:pixels] + b"\xf0\xff\xff\x7f" + whole[pixels + 4 :]
    return {
        **files,
        "cut in its pixels": (whole[:-700], "cut short"),
        "cut in its elements": (whole[:300], "cut short"),
        "a length that lies": (lying, "lengths are wrong"),
        "nothing but a name": (bytes(128) + b"DICM", "transfer syntax"),
    }


def big_endian(data: Dataset) -> bytes:
    """The bytes after the head are of no matter: the syntax alone refuses the file."""
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole = written(data)
    little, big = (f"{uid}".encode() for uid in (ExplicitVRLittleEndian, ExplicitVRBigEndian))
    return whole.replace(little, big, 1)


def test_the_unsuitable_is_refused_with_its_reason_by_command_line_and_server(
    xray_home: Path, pulmo: Command
) -> None:
    folder, files = xray_home / "unsuitable", unsuitable()
    folder.mkdir()
    for name, (encoded, _) in files.items():
        (folder / f"{name}.dcm").write_bytes(encoded)
    assert len(files) >= 12
    command = ("predict", "unsuitable", "--model", "./run", "--json")
    done = pulmo(xray_home, *command, expect=1)
    errors = {Path(one["path"]).stem: one["error"] for one in answers(done)}
    assert errors.keys() == files.keys()
    told = []
    with serving(xray_home, xray_home / "run") as server:
        for name, (encoded, reason) in files.items():
            assert errors[name], name
            assert reason in errors[name], errors[name]
            reply = server.client.post("/predict", content=encoded, headers=DICOM)
            assert reply.status_code in (400, 413, 415, 422), (name, reply.text)
            assert reason in reply.json()["detail"], reply.text
            told.append(f"{reply.status_code}  {name}: {errors[name]}")
        assert server.client.get("/livez").status_code == 200
    assert CANARY not in done.stdout + done.stderr + "".join(server.said)
    logger.info("\n  ".join(["", *told]))


def test_a_name_in_the_files_is_found_nowhere(
    tmp_path: Path, shared_data: Path, pulmo: Command
) -> None:
    """From data over training, registry, evaluation and answers to what a server says."""
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    work.mkdir()
    for label in ("NORMAL", "PNEUMONIA"):
        (inputs / label).mkdir(parents=True)
        for number, path in enumerate(sorted((shared_data / "chest_xray/train" / label).iterdir())):
            if number >= 120:
                break
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("L").resize((64, 64)))
            data = radiograph(pixels)
            if number % 2:
                data = packed(data, lossless(pixels, 8))
            (inputs / label / f"{number}.dcm").write_bytes(written(data))
    (inputs / "NORMAL" / "damaged.dcm").write_bytes(written(radiograph(pixels))[:-99])
    overrides = ("data=folder", f"data.root={inputs}", "registry.name=canary")
    network = ("model=small_cnn", "recipe=finetune", "model.image_size=32", "trainer.max_epochs=1")
    loose = ("doctor.allow_errors=true",)
    some = str(inputs / "NORMAL")
    steps: list[tuple[tuple[str, ...], tuple[int, ...]]] = [
        (("validate", *overrides), (0, 3)),
        (("data", *overrides, *loose), (0,)),
        (("train", *overrides, *network, *loose, "run.dir=run"), (0,)),
        (("registry", "stage", "run", *overrides, *loose), (0, 3)),
        (("evaluate", *overrides, "--model", "./run"), (0,)),
        (("predict", some, "--model", "./run", "--overlay", "heat", "--json"), (1,)),
        (("predict", some, "--model", "./run", "--csv"), (1,)),
        (("predict", some, "--model", "./run"), (1,)),
    ]
    said = []
    for arguments, codes in steps:
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=work,
            capture_output=True,
            check=False,
        )
        assert done.returncode in codes, (arguments, done.returncode, done.stderr.decode())
        said += [done.stdout, done.stderr]
    with serving(work, work / "run") as server:
        for path in sorted((inputs / "NORMAL").iterdir()):
            query = "?explain=true"
            reply = server.client.post(f"/predict{query}", content=path.read_bytes(), headers=DICOM)
            assert reply.status_code in (200, 400, 422), reply.text
            said.append(reply.content)
        said.append(server.client.get("/metrics").content)
    said.append("".join(server.said).encode())
    kept = [path for path in work.rglob("*") if path.is_file()]
    for word in (b"CANARY", b"QUAGGA"):
        assert all(word in path.read_bytes() for path in inputs.rglob("*.dcm"))
        assert not [path for path in kept if word in path.read_bytes()]
        assert not [one for one in said if word in one]
    names = {path.name for path in kept}
    assert {"manifest.csv", "run.log", "lineage.json", "bundle.json", "registry.db"} <= names
    logger.info(f"241 files with a name: in none of {len(kept)} files, {len(said)} outputs")


def test_thousands_of_damaged_frames_harm_nobody() -> None:
    """In a process of its own: each is a picture or a DataError, soon and in little memory."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), str(MUTATIONS)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for kind, found in json.loads(done.stdout).items():
        assert found["shown"] + found["refused"] == MUTATIONS
        assert found["slowest"] < 5
        assert found["memory"] < 200 * 2**20
        logger.info(f"{kind}: {found}")


def mutated(seed: int, frame: bytes) -> bytes:
    """A frame with flipped bytes anywhere or in its head, cut, or with parts moved; then an end."""
    import random

    chance, data = random.Random(seed), bytearray(frame)
    way = seed % 4
    if way < 2:
        reach = len(data) if way else min(len(data), 300)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(reach)] = chance.randrange(256)
    elif way == 2:
        del data[chance.randrange(20, len(data)) :]
    else:
        to, origin, length = (chance.randrange(len(data)) for _ in range(3))
        data[to : to + length % 200] = frame[origin : origin + length % 200]
    return bytes(data) + (b"\xff\xd9" if chance.random() < 0.7 else b"")


def endure(count: int) -> dict[str, Any]:
    """Decode `count` damaged frames of either kind."""
    import resource
    import time

    from pydicom.uid import JPEGExtended12Bit

    from pulmo.core.dicom import decode
    from pulmo.errors import DataError

    noise = np.random.default_rng(0).integers(0, 256, (10, 10), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(noise).resize((120, 100))).astype(np.uint16) * 16
    exact = [
        bytes(jpeg8_encode(grey, lossless=True, predictor=p, bitspersample=b))
        for p in (1, 4, 7)
        for b in (12, 16)
    ]
    lossy = [bytes(jpeg8_encode(grey, level=level, bitspersample=12)) for level in (50, 90)]
    found: dict[str, Any] = {}
    for name, syntax, frames in (
        ("lossless", JPEGLosslessSV1, exact),
        ("12 bits", JPEGExtended12Bit, lossy),
    ):
        file = written(packed(radiograph(grey, BitsStored=12), b"HERE" * 9, syntax))
        head = file[: file.index(b"HERE") - 4]
        shown, slowest = 0, 0.0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(count):
            frame = mutated(seed, frames[seed % len(frames)])
            frame += b"\0" * (len(frame) % 2)
            end = b"\xfe\xff\xdd\xe0\0\0\0\0"
            begun = time.perf_counter()
            try:
                decode(head + len(frame).to_bytes(4, "little") + frame + end)
                shown += 1
            except DataError:
                pass
            slowest = max(slowest, time.perf_counter() - begun)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        found[name] = {
            "shown": shown,
            "refused": count - shown,
            "slowest": round(slowest, 3),
            "memory": memory,
        }
    return found


if __name__ == "__main__":
    json.dump(endure(int(sys.argv[1])), sys.stdout)
