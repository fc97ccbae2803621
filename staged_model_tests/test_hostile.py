"""Hostile input: what is no picture is refused, and what is an odd one is answered."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pulmo.core.ports import Check
from pulmo.core.preprocess import read
from pulmo.errors import DataError, ModelError
from pulmo.jobs.staged import Case

ODD_MODES = ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16")


def test_wrong_input_is_refused(case: Case) -> None:
    good = case.candidate.pixels[:1]
    wrongs: tuple[NDArray[Any], ...] = (
        good.astype(np.float32),
        good[..., :-1],
        good[0],
        good[:0],
        np.repeat(good, 2, axis=1),
        good.astype(np.int8),
    )
    for wrong in wrongs:
        with pytest.raises(ModelError):
            case.candidate.engine(wrong)


def test_hostile_files_are_refused_and_odd_ones_answered(
    case: Case, show: Callable[..., None]
) -> None:
    spec = case.candidate.bundle.info.specification.input
    for name, data in _hostile().items():
        try:
            read(data, spec)
        except DataError:
            continue
        pytest.fail(f"{name} was read as a picture")
    odd = [read(_encoded(mode), spec) for mode in ODD_MODES]
    extreme = [np.full_like(odd[0], value) for value in (0, 1, 254, 255)]
    extreme += [np.indices(odd[0].shape).sum(axis=0).astype(np.uint8) % 2 * 255]
    pictures = np.stack([*odd, *extreme]).astype(np.uint8)
    outputs = case.candidate.engine(pictures)
    sums = outputs.probabilities.sum(axis=1, dtype=np.float64)
    fine = bool(np.isfinite(outputs.logits).all() and (np.abs(sums - 1) < 1e-3).all())
    told = f"{len(_hostile())} hostile files refused, {len(pictures)} odd pictures answered"
    show(Check("hostile", fine, told))


def _encoded(mode: str) -> bytes:
    grey = Image.fromarray((np.indices((40, 56)).sum(axis=0) * 2).astype(np.uint8))
    wide = Image.fromarray(np.asarray(grey) * np.uint16(257))
    image = wide if mode == "I;16" else grey.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    return buffer.getvalue()


def _hostile() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.new("L", (64, 64), 90).save(whole, "PNG")
    png = whole.getvalue()
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return {
        "nothing": b"",
        "a text": b"no picture at all",
        "half a picture": png[: len(png) // 2],
        "a picture of 3.6 gigapixels": png[:8] + struct.pack(">I", 13) + b"IHDR" + head + crc,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
        "a script": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    }
