"""A data set's YAML from looking at a folder of pictures."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pulmo.config.compose import config_folders
from pulmo.config.schema import DataConfig, Role
from pulmo.core.ports import is_name
from pulmo.core.preprocess import decode, is_dicom
from pulmo.data import files
from pulmo.data.collection import Collection, from_folder, visible
from pulmo.errors import ConfigError, DataError

SAMPLE = 60
WIDEST = 224  # pixels: what the networks of the catalogue were trained on

_PARTS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation", "dev"), "pool"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_PATIENTS = (  # from the most telling to a guess: all before the last number
    r"^((?:patient|subject|person|case|pat|sub|id)[-_]?[0-9A-Za-z]+)[-_.]",
    r"^(p\d+)[-_.]",
    r"^(.*[0-9A-Za-z])[-_]\d+\.\w+$",
)


@dataclass(frozen=True)
class Described:
    """The file that was written, the name it is chosen by, and what was seen, line by line."""

    path: Path
    name: str
    seen: tuple[str, ...]


def init(folder: Path, name: str | None = None, out: Path | None = None) -> Described:
    """Look at a folder of pictures and write the YAML that makes it a data set.

    By default it goes to `configs/data` of the current directory, where `data=NAME` finds it.
    Raises ConfigError for a name that is taken, DataError for a folder without classes.
    """
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"{folder} is no folder")
    name = name or re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-._")
    path = out or Path("configs", "data", f"{name}.yaml")
    if not is_name(name):
        raise ConfigError(f"'{name}' cannot name a data set: say --name with a-z, 0-9, . _ -")
    taken = [path, *(one / "data" / f"{name}.yaml" for one in config_folders())]
    if any(one.exists() for one in (taken if out is None else taken[:1])):
        raise ConfigError(f"a data set '{name}' is described already: say --name or --out")
    parts = {p.name.lower(): _PARTS[p.name.lower()] for p in visible(root) if _is_part(p)}
    found = from_folder(_probe(name, root, parts), root)
    pictures = _sample(found)
    names = [Path(one.path).name for one in found.files]
    patient = guess_patient(names)
    grey = all(_is_grey(image) for image in pictures)
    side = _side(pictures)
    seen = _seen(found, parts, pictures, patient)
    files.write(path, _yaml(name, root, found, parts, grey, patient, side).encode())
    return Described(path, name, seen)


def guess_patient(names: Sequence[str]) -> str | None:
    """An expression whose group is likely the patient: it fits nearly all file names, and gives
    clearly fewer patients than pictures, none of whom has a large share. None where none does.
    """
    for text in _PATIENTS:
        matches = [match for one in names if (match := re.search(text, one))]
        groups = Counter(match[1] for match in matches)
        fits = len(matches) >= 0.95 * len(names) and 5 <= len(groups) <= 0.95 * len(names)
        if fits and max(groups.values()) <= max(0.1 * len(names), 3):
            return text
    return None


def _is_part(path: Path) -> bool:
    return path.is_dir() and path.name.lower() in _PARTS


def _probe(name: str, root: Path, parts: dict[str, Role]) -> DataConfig:
    known = {"name": name, "source": "folder", "root": str(root), "intended_use": "?"}
    return DataConfig.model_validate({**known, "splits": {"official": parts}})


def _sample(found: Collection) -> list[Image.Image]:
    """Up to 60 readable pictures, evenly over the files. Raises DataError where there are none."""
    step = max(1, len(found.files) // SAMPLE)
    images = []
    for one in found.files[::step]:
        try:
            encoded = files.read(found.root / one.path)
            images.append(decode(encoded, 1 if is_dicom(encoded) else 3))
        except DataError:  # `validate` names what cannot be read
            continue
    if not images:
        raise DataError(f"none of the pictures of {found.root} that were tried can be read")
    return images


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image, np.int16)
    return bool(np.abs(pixels - pixels[..., :1]).max() <= 2)


def _side(images: Sequence[Image.Image]) -> int:
    """The side to train at: half of the pictures are at least that large; a multiple of 32."""
    side = int(np.median([min(image.size) for image in images]))
    return max(32, min(WIDEST, side // 32 * 32))


def _seen(
    found: Collection, parts: dict[str, Role], images: Sequence[Image.Image], patient: str | None
) -> tuple[str, ...]:
    counts = Counter(one.label for one in found.files)
    sizes = [image.size for image in images]
    smallest, largest = min(sizes), max(sizes)
    return (
        f"{len(found.files):,} pictures: {', '.join(f'{n:,} {c}' for c, n in counts.items())}",
        f"split folders: {', '.join(parts) or 'none'}",
        f"sizes: {smallest[0]}×{smallest[1]} to {largest[0]}×{largest[1]}",
        f"patients by: {patient or 'nothing; each picture stands alone'}",
    )


def _yaml(
    name: str, root: Path, found: Collection, parts: dict[str, Role],
    grey: bool, patient: str | None, side: int,
) -> str:  # fmt: skip
    told = patient is not None
    guess = "a guess from the file names: check it" if told else "null: each picture stands alone"
    official = ", ".join(f"{json.dumps(part)}: {role}" for part, role in parts.items())
    return f"""\
# @package _global_
# Written by `pulmo init`; all of it may be changed.
#   uv run main.py data data={name}
data:
  name: {name}
  source: folder
  root: {json.dumps(str(root))}
  classes: {json.dumps(found.classes, ensure_ascii=False)}
  positive: null  # with two classes: the one that is looked for
  channels: {1 if grey else 3}
  resize: crop    # or squash, where the borders matter more than the proportions
  patient: {_quoted(patient)}  # {guess}
  mirror: false   # true where a mirrored picture is as good
  intended_use: Not stated by the people who trained it.
  splits:
    official: {{{official}}}

model:
  image_size: {side}

registry:
  name: {name}
"""


def _quoted(text: str | None) -> str:
    return "null" if text is None else "'" + text.replace("'", "''") + "'"
