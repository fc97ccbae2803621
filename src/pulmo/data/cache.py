"""Decoded uint8 pixels of a data set in one memory-mapped file, made once for an input size."""

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray

from pulmo import logs
from pulmo.core.bundle import file_digest, sha256
from pulmo.core.preprocess import InputSpec, Pixels, read
from pulmo.data import files
from pulmo.data.manifest import DataSet, Row
from pulmo.data.scan import each
from pulmo.errors import DataError

log = logs.get_logger(__name__)


def open_pixels(dataset: DataSet, spec: InputSpec) -> NDArray[np.uint8]:
    """Pixels uint8 [n, channels, height, width], read-only, aligned with the manifest's rows.

    They are decoded at the first call, and again where the stored file does not match its
    digest. Raises DataError that names a picture which is gone, changed or damaged.
    """
    key = sha256(f"{spec.model_dump_json()} Pillow {PIL.__version__}".encode())[:16]
    path = dataset.folder / f"pixels-{key}.npy"
    with FileLock(path.with_suffix(".lock")):
        if not _whole(path):
            _make(dataset, spec, path)
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    assert pixels.shape == _shape(dataset, spec)
    return pixels


def _shape(dataset: DataSet, spec: InputSpec) -> tuple[int, int, int, int]:
    return len(dataset.manifest.rows), spec.channels, spec.height, spec.width


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _whole(path: Path) -> bool:
    if not path.is_file() or not _sidecar(path).is_file():
        return False
    if _sidecar(path).read_bytes() == f"{file_digest(path)}\n".encode():
        return True
    log.warning("%s is damaged and is made anew", path)
    return False


def _make(dataset: DataSet, spec: InputSpec, path: Path) -> None:
    part = files.part_of(path)
    try:
        with part.open("wb") as stream:
            digest = _fill(stream, dataset, spec)
        files.publish(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    files.write(_sidecar(path), f"{digest}\n".encode())


def _fill(stream: BinaryIO, dataset: DataSet, spec: InputSpec) -> str:
    """Write row after row: a full disk is then an error, where a memory map would be killed."""

    def decode(row: Row) -> Pixels:
        path = dataset.path(row)
        again = f"make the data set anew with: uv run main.py data data={dataset.manifest.name}"
        try:
            encoded = files.read(path)
        except DataError as error:
            raise DataError(f"{error}; bring it back or {again}") from error
        if sha256(encoded) != row.sha256:
            raise DataError(f"{path} has changed since its data set was made: {again}")
        return read(encoded, spec)

    head = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": _shape(dataset, spec)}
    np.lib.format.write_array_header_1_0(head, layout)
    stream.write(head.getvalue())
    digest = hashlib.sha256(head.getvalue())
    for pixels in each(decode, dataset.manifest.rows, "decoding"):
        stream.write(pixels.data)
        digest.update(pixels.data)
    return digest.hexdigest()
