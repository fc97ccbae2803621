"""Near duplicates of a source: pictures that are the same but for their encoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pulmo.config.schema import DataConfig, DoctorConfig
from pulmo.core.preprocess import decode
from pulmo.data import files, looks
from pulmo.data.dealing import Picture
from pulmo.data.looks import Look
from pulmo.data.scan import each

Alike = Mapping[str, str]


def find_alike(
    root: Path,
    pictures: Sequence[Picture],
    seen: Mapping[str, Look],
    data: DataConfig,
    doctor: DoctorConfig,
) -> Alike:
    """Pixel digest → pixel digest of the picture it is a near duplicate of (the least of a group).

    Candidates have perceptual hashes at most `doctor.near` bits apart; they are read again, and
    their details must correlate. Blank pictures are alike in nothing. `seen` is by path.
    """
    unique = {p.pixels: p for p in reversed(pictures) if seen[p.path].contrast >= doctor.blank}
    chosen = [unique[pixels] for pixels in sorted(unique)]
    hashes = np.array([seen[p.path].hash for p in chosen], np.uint64)
    pairs = looks.near(hashes, doctor.near) if len(chosen) > 1 else []
    wanted = sorted({index for pair in pairs for index in pair})

    def read(index: int) -> Image.Image:
        encoded = files.read(root / chosen[index].path)
        return looks.reduced(decode(encoded, data.channels, data.dicom))

    images = dict(zip(wanted, each(read, wanted, "comparing"), strict=True))
    found: dict[int, int] = {}
    for one, other in pairs:
        if looks.likeness(images[one], images[other]) >= doctor.likeness:
            low, high = sorted((_root(found, one), _root(found, other)))
            if low != high:
                found[high] = low
    return {chosen[i].pixels: chosen[_root(found, i)].pixels for i in found}


def _root(found: Mapping[int, int], index: int) -> int:
    while index in found:
        index = found[index]
    return index
