"""Arrays in bundles: the same bytes every time, nothing hostile read."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulmo.core import arrays as packing
from pulmo.errors import ModelError


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(12, dtype=np.float16).reshape(3, 4),
        "b": np.zeros((0, 32), dtype=np.uint8),
        "c": np.array([1, -1]),
    }
    path = tmp_path / "arrays.npz"
    path.write_bytes(packing.pack_arrays(arrays))
    found = packing.read_arrays(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert packing.pack_arrays(dict(reversed(arrays.items()))) == path.read_bytes()


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        packing.pack_arrays({"a": np.array([{}], dtype=object)})
    path = tmp_path / "pickle.npz"
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ModelError, match="no arrays that can be read"):
        packing.read_arrays(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(packing.pack_arrays({"a": np.zeros(100_000)}))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(packing, "MAX_ARRAYS_BYTES", 10_000)
    with pytest.raises(ModelError, match="unpacks to more"):
        packing.read_arrays(path)


def _archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _array(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _header(kind: str, length: int) -> bytes:
    return _array(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({length},), }}")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        _archive(a=b"no array"),
        _archive(a=_header("<f8", 10**12)),
        _archive(a=_header("<f8", 5) + b"short"),
        _archive(a=_header("|O", 1) + b"\x80\x04."),
        _archive(a=_array("__import__('os').system('true')")),
        _archive(a=_array("(" * 5000)),
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hostile.npz"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no arrays that can be read"):
        packing.read_arrays(path)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_archive_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    data = bytearray(packing.pack_arrays({"a": np.arange(200.0), "b": np.arange(5)}))
    data[place % len(data)] ^= change
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    path.write_bytes(bytes(data))
    try:
        packing.read_arrays(path)
    except ModelError:
        return
