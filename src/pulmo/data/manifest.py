"""The manifest: every picture of a data set with its label, split, patient and digests."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pulmo.core.ports import is_name
from pulmo.data import files
from pulmo.errors import ConfigError, DataError

TRAIN, VAL, GATE, TEST, EXCLUDED = SPLITS = ("train", "val", "gate", "test", "excluded")
COLUMNS = ("path", "label", "split", "patient", "sha256", "pixels")
TABLE = "manifest.csv"
INFO = "dataset.json"

_SLICE = "slice:"  # begins the name of every further column
_MAX_TABLE_BYTES = 2**30
_HEX = re.compile(r"[0-9a-f]{64}")
_FOLDER_DIGITS = 16

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, order=True)
class Row:
    """One picture of a manifest.

    `patient` is `<role>/<id>` where the file name tells it, `all/<id>` where ids hold throughout
    the source, else the start of the picture's digest: equal values are never dealt to different
    splits. `slices` are names and values to evaluate by, sorted by name, an empty value where
    nothing is known; every row of a manifest has the same names.
    """

    path: str
    label: str
    split: str
    patient: str
    sha256: str
    pixels: str
    slices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The rows of a data set, sorted by path, and what they show."""

    name: str
    classes: tuple[str, ...]
    channels: Literal[1, 3]
    rows: tuple[Row, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over classes, channels and rows: never over names, places or times."""
        head = json.dumps({"channels": self.channels, "classes": self.classes}, sort_keys=True)
        return hashlib.sha256(f"{head}\n".encode() + self.table()).hexdigest()

    @property
    def slices(self) -> tuple[str, ...]:
        """The names of the attributes that every row has a value for, sorted."""
        return tuple(name for name, _ in self.rows[0].slices) if self.rows else ()

    def table(self) -> bytes:
        """The rows as CSV in the only form they are stored in: UTF-8, bare newlines, a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*COLUMNS, *(f"{_SLICE}{name}" for name in self.slices)))
        for row in self.rows:
            values = (value for _, value in row.slices)
            writer.writerow((*(getattr(row, name) for name in COLUMNS), *values))
        return text.getvalue().encode()

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of every class in every split."""
        found = Counter((row.split, row.label) for row in self.rows)
        return {s: {name: found[s, name] for name in self.classes} for s in SPLITS}


@dataclass(frozen=True)
class DataSet:
    """A manifest on this machine: its own folder and the root that its paths begin at."""

    folder: Path
    root: Path
    manifest: Manifest

    def path(self, row: Row) -> Path:
        """Where a picture lies."""
        return self.root / row.path


class _Info(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    digest: str = Field(pattern=_HEX.pattern)
    root: str  # relative to the folder above, where the pictures lie beneath it
    classes: tuple[str, ...] = Field(min_length=2)
    channels: Literal[1, 3]
    counts: dict[str, dict[str, int]]


class _Pointer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=_HEX.pattern)


def store(manifest: Manifest, root: Path, data_dir: Path) -> DataSet:
    """Write a data set below `data_dir` and make it the current one of its name."""
    home = home_of(data_dir, manifest.name)
    folder = home / manifest.digest[:_FOLDER_DIGITS]
    inside = root.is_relative_to(home)
    info = _Info(
        name=manifest.name,
        digest=manifest.digest,
        root=(root.relative_to(home) if inside else root).as_posix(),
        classes=manifest.classes,
        channels=manifest.channels,
        counts=manifest.counts(),
    )
    files.write(folder / TABLE, manifest.table())
    files.write(folder / INFO, info.model_dump_json(indent=2).encode() + b"\n")
    pointer = _Pointer(digest=manifest.digest)
    files.write(home / INFO, pointer.model_dump_json(indent=2).encode() + b"\n")
    return DataSet(folder, root, manifest)


def load(data_dir: Path, name: str) -> DataSet:
    """The current data set called `name`. Raises DataError with the command that makes it."""
    home = home_of(data_dir, name)
    if not (home / INFO).is_file():
        raise DataError(f"there is no data set '{name}' in {data_dir}: {_remedy(name)}")
    digest = _parse(_Pointer, home / INFO, name).digest
    return open_at(home / digest[:_FOLDER_DIGITS], digest)


def find(data_dir: Path, digest: str) -> DataSet:
    """The data set with this manifest digest, current or not. Raises DataError."""
    if _HEX.fullmatch(digest):
        for info in sorted(data_dir.resolve().glob(f"*/{digest[:_FOLDER_DIGITS]}/{INFO}")):
            return open_at(info.parent, digest)
    raise DataError(
        f"no data set in {data_dir} has the digest {digest[:_FOLDER_DIGITS]}…: make it from the "
        "same pictures with: uv run main.py data data=…"
    )


def home_of(data_dir: Path, name: str) -> Path:
    """The absolute folder of everything that belongs to the data set `name`."""
    if not is_name(name):
        raise ConfigError(
            f"data.name='{name}' cannot name a folder: use lower case letters, digits, . _ -"
        )
    return data_dir.resolve() / name


def open_at(folder: Path, digest: str) -> DataSet:
    """The data set in a folder of its own. Raises DataError unless it has this digest."""
    home = folder.parent
    info = _parse(_Info, folder / INFO, home.name)
    rows = _rows(folder / TABLE, home.name)
    manifest = Manifest(info.name, info.classes, info.channels, rows)
    if manifest.digest != digest or info.name != home.name:
        raise DataError(f"{folder} does not hold the data set {digest[:12]}…: {_remedy(home.name)}")
    return DataSet(folder, home / info.root, manifest)


def _rows(path: Path, name: str) -> tuple[Row, ...]:
    # Whatever is wrong in here changes the digest; only what cannot be a row is looked for.
    try:
        text = files.read(path, _MAX_TABLE_BYTES).decode()
        head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = [name.removeprefix(_SLICE) for name in head[len(COLUMNS) :]]
        if (*COLUMNS, *(f"{_SLICE}{name}" for name in names)) != tuple(head):
            raise ValueError(f"its columns are {', '.join(head)}")
        return tuple(_row(line, names) for line in lines)
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}): {_remedy(name)}") from error


def _row(line: list[str], names: list[str]) -> Row:
    path, label, split, patient, digest, pixels, *values = line
    slices = tuple(zip(names, values, strict=True))
    return Row(path, label, split, patient, digest, pixels, slices)


def _parse(model: type[M], path: Path, name: str) -> M:
    try:
        return model.model_validate_json(files.read(path))
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {_remedy(name)}") from error


def _remedy(name: str) -> str:
    return f"make it with: uv run main.py data data={name}"
