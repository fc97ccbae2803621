"""Arrays as .npz bytes: the same arrays give the same bytes, and nothing in them is a pickle."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulmo.errors import ModelError

MAX_FILE_BYTES = 2 * 2**30
MAX_ARRAYS_BYTES = 2**29  # unpacked; 50,000 embeddings of 1,280 numbers are a quarter of it

Arrays = Mapping[str, NDArray[Any]]

# What damaged or hostile archives and array headers raise.
_ARCHIVE_FAULTS = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def pack_arrays(arrays: Arrays) -> bytes:
    """Arrays as compressed .npz bytes: the same arrays give the same bytes, and never a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; refuses pickles and archives that unpack to too much."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_ARRAYS_BYTES:
                raise ModelError(f"{path} unpacks to more than any bundle's file may hold")
            return {e.filename.removesuffix(".npy"): _array(archive, e) for e in entries}
    except _ARCHIVE_FAULTS as error:
        raise ModelError(f"{path} holds no arrays that can be read: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return array
